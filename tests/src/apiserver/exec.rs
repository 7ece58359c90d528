//! Commands in pods, over WebSocket: protocols `v5.channel.k8s.io` and `v4`, as a real
//! server speaks them with clients that don't use SPDY. The first byte of a message says
//! which stream it belongs to.

use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::http::{Answer, Query, faulty, full, status};
use super::{ApiServer, Fault, Shared, lock, resources};

/// In the order of the server's liking.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ENDED: u8 = 3;
/// The stream that is named behind it has ended; version 5 only.
const CLOSE: u8 = 255;

/// A command that somebody wants to run in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container, if one was named.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// What runs in the place of a command; or why the container's runtime can't start it.
pub(super) type Program = dyn Fn(&Exec) -> Result<Command, String> + Send + Sync;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

impl ApiServer {
    /// Says what runs in the place of a command in a pod, on this machine, or why nothing
    /// can be started there. The process ends with this server; when its client goes, its
    /// stdin ends and its output leads nowhere, but it goes on, as in a real container.
    pub fn on_exec(
        &self,
        program: impl Fn(&Exec) -> Result<Command, String> + Send + Sync + 'static,
    ) {
        *lock(&self.shared.program) = Some(Arc::new(program));
    }
}

/// The answer to a wish for a command; what follows is no HTTP any more.
pub(super) fn answer(
    mut request: Request<Incoming>,
    shared: &Arc<Shared>,
    namespace: &str,
    pod: &str,
) -> Answer {
    // A WebSocket begins with GET; from Kubernetes 1.35 on it takes leave to create, too.
    shared.note("get", "pods/exec");
    shared.note("create", "pods/exec");
    let is_answer = |fault: &Fault| matches!(fault, Fault::Answer { .. });
    if let Some(Fault::Answer {
        code,
        retry_after,
        body,
    }) = lock(&shared.faults).strike("pods/exec", is_answer)
    {
        return faulty(code, retry_after, body);
    }
    let is_there = resources::named("pods")
        .is_some_and(|pods| lock(&shared.store).get(pods, namespace, pod).is_some());
    if !is_there {
        let message = format!("pods {pod:?} not found");
        return status(StatusCode::NOT_FOUND, "NotFound", &message);
    }
    let Some((mut answer, protocol)) = switch(&request) else {
        return status(
            StatusCode::BAD_REQUEST,
            "BadRequest",
            "Upgrade request required",
        );
    };
    let query = Query::of(&request);
    let exec = Exec {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: query.get("container").to_owned(),
        command: query.all("command").map(String::from).collect(),
    };
    let (program, stdin) = (lock(&shared.program).clone(), query.is_on("stdin"));
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // Clients that go away in the middle are what tests are for.
        if let Ok(upgraded) = upgrade.await {
            let io = TokioIo::new(upgraded);
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
            drop(serve(socket, &exec, program.as_deref(), stdin).await);
        }
    });
    let protocol = HeaderValue::from_static(protocol);
    answer
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    answer
}

/// The answer by which both begin to speak WebSocket, and the protocol inside of it.
fn switch(request: &Request<Incoming>) -> Option<(Answer, &'static str)> {
    let header = |name| request.headers().get(name)?.to_str().ok();
    let offered = header(SEC_WEBSOCKET_PROTOCOL)?;
    let offers = |protocol: &&str| offered.split(',').any(|one| one.trim() == *protocol);
    let protocol = PROTOCOLS.into_iter().find(offers)?;
    let is_websocket = request.method() == Method::GET && header(UPGRADE)? == "websocket";
    let key = derive_accept_key(
        header(SEC_WEBSOCKET_KEY)
            .filter(|_| is_websocket)?
            .as_bytes(),
    );
    let mut answer = full(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "");
    let headers = answer.headers_mut();
    headers.clear();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&key).ok()?);
    Some((answer, protocol))
}

async fn serve(
    socket: Socket,
    exec: &Exec,
    program: Option<&Program>,
    stdin: bool,
) -> Result<(), Error> {
    let (mut to, mut from) = socket.split();
    // A real server says of each stream that it is there.
    for stream in [STDOUT, STDERR, ENDED] {
        to.send(message(stream, &[])).await?;
    }
    let started = match program {
        Some(program) => program(exec).and_then(|command| start(command, stdin)),
        None => Err("no test has said what runs here".to_owned()),
    };
    let end = match started {
        Ok(mut child) => {
            let piped = pipe(&mut child, &mut to, &mut from).await;
            // It may go on without its client: nobody kills it.
            let status = child.wait().await;
            piped?;
            ended(&status.map_err(Error::Io)?)
        }
        Err(why) => never_ran(&why),
    };
    to.send(message(ENDED, end.to_string().as_bytes())).await?;
    to.close().await
}

fn start(command: Command, stdin: bool) -> Result<Child, String> {
    let mut command = tokio::process::Command::from(command);
    let input = if stdin { Stdio::piped() } else { Stdio::null() };
    command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true);
    command.spawn().map_err(|error| error.to_string())
}

/// Passes on what either side says, until the process has no more to say or the client
/// is gone.
async fn pipe(
    child: &mut Child,
    to: &mut SplitSink<Socket, Message>,
    from: &mut SplitStream<Socket>,
) -> Result<(), Error> {
    let mut stdin = child.stdin.take();
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    while stdout.is_some() || stderr.is_some() {
        tokio::select! {
            said = read(&mut stdout), if stdout.is_some() => send(to, STDOUT, said).await?,
            said = read(&mut stderr), if stderr.is_some() => send(to, STDERR, said).await?,
            heard = from.next() => match heard {
                Some(Ok(Message::Binary(bytes))) => hear(&mut stdin, &bytes).await?,
                None | Some(Ok(Message::Close(_)) | Err(_)) => return Err(Error::ConnectionClosed),
                Some(Ok(_)) => {}
            },
        }
    }
    Ok(())
}

/// The next of a stream, which is taken away at its end.
async fn read(stream: &mut Option<impl AsyncRead + Unpin>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 << 15);
    let read = match stream {
        Some(stream) => stream.read_buf(&mut bytes).await.unwrap_or(0),
        None => 0,
    };
    if read == 0 {
        *stream = None;
    }
    bytes.freeze()
}

async fn send(to: &mut SplitSink<Socket, Message>, stream: u8, said: Bytes) -> Result<(), Error> {
    if said.is_empty() {
        return Ok(());
    }
    to.send(message(stream, &said)).await
}

async fn hear(stdin: &mut Option<ChildStdin>, bytes: &[u8]) -> Result<(), Error> {
    match (bytes, stdin.as_mut()) {
        ([CLOSE, STDIN], _) => *stdin = None,
        ([STDIN, bytes @ ..], Some(stdin)) => stdin.write_all(bytes).await.map_err(Error::Io)?,
        _ => {}
    }
    Ok(())
}

fn message(stream: u8, bytes: &[u8]) -> Message {
    let mut whole = BytesMut::with_capacity(bytes.len() + 1);
    whole.put_u8(stream);
    whole.extend_from_slice(bytes);
    Message::Binary(whole.freeze())
}

/// What a kubelet says of a process that has ended.
fn ended(status: &ExitStatus) -> Value {
    if status.success() {
        return json!({"metadata": {}, "status": "Success"});
    }
    // A signal's, as a shell has it.
    let code = status.code().unwrap_or(137).to_string();
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
           "message": format!("command terminated with non-zero exit code: exit status {code}"),
           "details": {"causes": [{"reason": "ExitCode", "message": code}]}})
}

/// What a kubelet says where the container's runtime couldn't start it.
fn never_ran(why: &str) -> Value {
    let message = format!("Internal error occurred: error executing command in container: {why}");
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
           "message": message, "details": {"causes": [{"message": why}]}})
}
