//! A page rendered at most once a second, however many clients request it, and never twice at a
//! time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::sleep;

/// How long a page is served.
const FRESH: Duration = Duration::from_secs(1);
/// Bytes of older pages that slow readers may hold. While they hold more, the newest page isn't
/// replaced; the readers' time is limited.
const OLDER: usize = 8 << 20;

/// A page, or why there is none.
pub(crate) type Made = Result<Bytes, Arc<str>>;

type Make = Box<dyn Fn() -> anyhow::Result<Vec<u8>> + Send + Sync>;

/// The newest page, and how to render the next.
pub(crate) struct Page {
    make: Make,
    newest: watch::Sender<Option<Made>>,
    /// Whether a page is being rendered or served.
    at_work: AtomicBool,
    /// Bytes of all pages that are still referenced.
    held: Arc<AtomicUsize>,
}

impl Page {
    /// Creates a page; `make` may block.
    pub(crate) fn new(
        make: impl Fn() -> anyhow::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            make: Box::new(make),
            newest: watch::Sender::new(None),
            at_work: AtomicBool::new(false),
            held: Arc::default(),
        })
    }

    /// Returns the newest page, no older than [`FRESH`] as long as readers keep up.
    pub(crate) async fn get(self: Arc<Self>) -> Made {
        let mut newest = self.newest.subscribe();
        loop {
            if let Some(made) = &*newest.borrow_and_update() {
                return made.clone();
            }
            if !self.at_work.swap(true, Ordering::SeqCst) {
                // The first client may disconnect before the page is rendered; others wait for it,
                // too.
                tokio::spawn(Arc::clone(&self).renew());
            }
            // The page may be gone again before this task runs; it then waits for the next one.
            if newest.changed().await.is_err() {
                return Err("the page was lost".into());
            }
        }
    }

    /// Renders a page, and serves it for a while.
    async fn renew(self: Arc<Self>) {
        let maker = Arc::clone(&self);
        let made = tokio::task::spawn_blocking(move || (maker.make)()).await;
        let made: Made = match made {
            Ok(Ok(text)) => Ok(self.hold(text)),
            Ok(Err(error)) => Err(crate::failure::one_line(&error).into()),
            Err(error) => Err(error.to_string().into()),
        };
        let own = made.as_ref().map_or(0, Bytes::len);
        self.newest.send_replace(Some(made));
        loop {
            sleep(FRESH).await;
            let older = self.held.load(Ordering::SeqCst).saturating_sub(own);
            if older <= OLDER {
                break;
            }
        }
        // In this order: a task that finds no page also finds that none is being rendered.
        self.at_work.store(false, Ordering::SeqCst);
        self.newest.send_replace(None);
    }

    fn hold(&self, text: Vec<u8>) -> Bytes {
        self.held.fetch_add(text.len(), Ordering::SeqCst);
        let held = Arc::clone(&self.held);
        Bytes::from_owner(Held { text, held })
    }
}

/// A page's text, which is counted for as long as it is referenced.
struct Held {
    text: Vec<u8>,
    held: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(self.text.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(length: usize) -> (Arc<Page>, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let made = Arc::clone(&count);
        let page = Page::new(move || {
            std::thread::sleep(Duration::from_millis(20));
            let number = made.fetch_add(1, Ordering::SeqCst);
            Ok(vec![b'0' + u8::try_from(number).unwrap(); length])
        });
        (page, count)
    }

    #[tokio::test]
    async fn four_hundred_scrapers_get_the_same_page_and_it_is_made_once() {
        let (page, count) = counting(10);
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..400 {
            asked.spawn(Arc::clone(&page).get());
        }
        let pages = asked.join_all().await;
        assert!(
            pages
                .iter()
                .all(|page| page.as_ref().unwrap() == &pages[0].clone().unwrap())
        );
        assert_eq!(count.load(Ordering::SeqCst), 1);
        sleep(FRESH + Duration::from_millis(100)).await;
        assert_ne!(Arc::clone(&page).get().await, pages[0]);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_page_that_takes_longer_than_it_is_fresh_is_given_all_the_same() {
        let page = Page::new(|| {
            std::thread::sleep(FRESH * 3 / 2);
            Ok(b"slow".to_vec())
        });
        let asked = tokio::time::timeout(FRESH * 5, page.get()).await;
        assert_eq!(asked.unwrap().unwrap(), "slow");
    }

    #[tokio::test]
    async fn a_scraper_that_goes_before_its_page_is_made_leaves_it_to_the_others() {
        let (page, count) = counting(10);
        let first = tokio::spawn(Arc::clone(&page).get());
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.is_err());
        assert!(Arc::clone(&page).get().await.is_ok());
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn slow_readers_hold_a_bounded_amount_of_older_pages() {
        let (page, count) = counting(OLDER + 1);
        let slow = Arc::clone(&page).get().await.unwrap();
        sleep(FRESH * 3 / 2).await;
        let second = Arc::clone(&page).get().await.unwrap();
        sleep(FRESH * 3 / 2).await;
        assert_eq!(Arc::clone(&page).get().await.unwrap(), second);
        assert_eq!(count.load(Ordering::SeqCst), 2, "none beside the one held");
        drop((slow, second));
        sleep(FRESH * 3 / 2).await;
        assert_eq!(page.held.load(Ordering::SeqCst), 0, "nobody holds any");
        assert!(Arc::clone(&page).get().await.is_ok());
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_page_that_cannot_be_made_says_why_and_is_tried_again() {
        let page = Page::new(|| anyhow::bail!("no such map"));
        assert_eq!(Arc::clone(&page).get().await, Err("no such map".into()));
        let panicking = Page::new(|| panic!("at the disco"));
        assert!(Arc::clone(&panicking).get().await.is_err());
        sleep(FRESH * 3 / 2).await;
        assert!(
            panicking.get().await.is_err(),
            "it isn't waited for in vain"
        );
    }
}
