//! A server that is reachable only through a proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use ringfence_tests::apiserver::ApiServer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::mirror::{Mirror, SHOP, pod, policy};

/// The host name in the server's certificate. No resolver of a test machine knows it.
const HOST: &str = "kubernetes.default.svc";
const PORT: u16 = 6443;

/// The protocol for requesting a tunnel from a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// HTTP/1.1 `CONNECT`.
    Http,
    /// SOCKS5 without authentication; the proxy resolves names.
    Socks,
}

/// A proxy that knows one server, by [`HOST`].
pub(crate) struct Proxy {
    way: Way,
    address: SocketAddr,
    server: SocketAddr,
    /// The number of tunnels opened.
    opened: Arc<AtomicUsize>,
    /// The listener and its tunnels; they end when this is dropped.
    tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(way: Way, server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = Self {
            way,
            address: listener.local_addr().unwrap(),
            server,
            opened: Arc::default(),
            tasks: JoinSet::new(),
        };
        proxy.serve(listener);
        proxy
    }

    fn serve(&mut self, listener: TcpListener) {
        let (way, server, opened) = (self.way, self.server, Arc::clone(&self.opened));
        self.tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let opened = Arc::clone(&opened);
                tunnels.spawn(async move {
                    way.agree(&mut client).await.unwrap();
                    opened.fetch_add(1, Ordering::SeqCst);
                    let mut server = TcpStream::connect(server).await.unwrap();
                    // Either end may close the connection.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
    }

    /// Breaks every tunnel and stops listening.
    pub(crate) async fn fail(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Listens again at the same address.
    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// Routes a kubeconfig's requests through the proxy.
    pub(crate) fn enter(&self, kubeconfig: &mut Value) {
        let scheme = match self.way {
            Way::Http => "http",
            Way::Socks => "socks5",
        };
        let cluster = &mut kubeconfig["clusters"][0]["cluster"];
        cluster["server"] = json!(format!("https://{HOST}:{PORT}"));
        cluster["proxy-url"] = json!(format!("{scheme}://{}", self.address));
    }
}

impl Way {
    /// Reads the client's request and grants it.
    async fn agree(self, client: &mut TcpStream) -> Result<()> {
        match self {
            Self::Http => {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(client.read_u8().await?);
                }
                let line = format!("CONNECT {HOST}:{PORT} HTTP/1.1\r\n");
                let asked = String::from_utf8(asked)?;
                ensure!(asked.starts_with(&line), "{asked}");
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            }
            Self::Socks => {
                ensure!(client.read_u8().await? == 5, "another version");
                let mut methods = vec![0; client.read_u8().await?.into()];
                client.read_exact(&mut methods).await?;
                ensure!(methods.contains(&0), "{methods:?}");
                client.write_all(&[5, 0]).await?;
                let mut asked = [0; 4];
                client.read_exact(&mut asked).await?;
                ensure!(asked == [5, 1, 0, 3], "no CONNECT by name: {asked:?}");
                let mut name = vec![0; client.read_u8().await?.into()];
                client.read_exact(&mut name).await?;
                let port = client.read_u16().await?;
                let name = String::from_utf8(name).context("the name")?;
                ensure!((&*name, port) == (HOST, PORT), "{name}:{port}");
                let done = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
                client.write_all(&done).await?;
            }
        }
        Ok(())
    }
}

/// Returns the shop behind a proxy.
async fn shop(way: Way) -> (Mirror, Proxy) {
    let server = ApiServer::start().unwrap();
    let objects = [SHOP, &pod("a", 1), &pod("b", 2), &policy("p", "a", "b")];
    objects.iter().for_each(|o| server.apply(o).unwrap());
    let proxy = Proxy::start(way, server.address()).await;
    let mirror = Mirror::by(server, |kubeconfig| proxy.enter(kubeconfig));
    (mirror, proxy)
}

#[tokio::test]
async fn a_proxy_of_a_kubeconfig_carries_every_request() {
    for way in [Way::Http, Way::Socks] {
        let (mut mirror, proxy) = shop(way).await;
        mirror.recovers(&format!("through {way:?}")).await;
        assert!(proxy.opened() > 0, "{way:?}");
        mirror.server.apply(&pod("c", 3)).unwrap();
        mirror.recovers(&format!("with one more, {way:?}")).await;
    }
}

#[tokio::test]
async fn what_is_known_stays_while_a_proxy_is_gone_and_goes_on_when_it_is_back() {
    for way in [Way::Http, Way::Socks] {
        let (mut mirror, mut proxy) = shop(way).await;
        mirror.recovers("through the proxy").await;
        let (before, opened) = (mirror.tables(), proxy.opened());
        proxy.fail().await;
        let cut_off = |mirror: &mut Mirror| !mirror.board.is_connected();
        mirror.until("cut off", cut_off).await;
        mirror.server.apply(&pod("c", 3)).unwrap();
        mirror.stays(&before).await;
        proxy.come_back().await;
        mirror.recovers("when the proxy is back").await;
        assert!(proxy.opened() > opened, "{way:?}");
    }
}
