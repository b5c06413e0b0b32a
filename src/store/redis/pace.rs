use std::future::poll_fn;
use std::task::Poll;

/// After so many answers in a row, those who have them run first. Tokio keeps 256 tasks that are
/// ready at hand. Of more, some are put aside for as long as there is anything else to do. The answers
/// of several round trips may be handed out at a time.
const MANY: usize = 32;

/// How fast answers are handed out.
#[derive(Default)]
pub(super) struct Pace {
    in_a_row: usize,
}

impl Pace {
    /// One more is about to be answered.
    pub(super) async fn step(&mut self) {
        if self.in_a_row == MANY {
            self.in_a_row = 0;
            others_first().await;
        }
        self.in_a_row += 1;
    }
}

/// Lets those run who were answered: they may have another question, and the next round trip is for
/// all of them. Unlike Tokio's `yield_now`, this does not wait until the runtime looks for I/O.
pub(super) async fn others_first() {
    let mut ready = false;
    poll_fn(|context| {
        if ready {
            return Poll::Ready(());
        }
        ready = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
