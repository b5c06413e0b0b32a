//! Delivers the script's reply to the checks of a call.

use std::future::poll_fn;
use std::iter;
use std::task::Poll;

use super::batch::Call;
use super::check_queue::PendingChecks;
use super::pending::{Request, Settlement, fail_all};
use super::script::{DecidedItem, ItemError, Operation, ScriptReply};
use super::settlement::Receipts;
use crate::store::receipt::{Receipt, Source};
use crate::store::{StoreError, StoreErrorKind, Verdict};

/// After this many answers in a row, the answered tasks run first. A Tokio worker queues 256 woken tasks;
/// more spill into the shared queue, which it reads last, so that some callers would starve (test:
/// `batching`). Several batches may be delivered at a time.
const MAX_ANSWERS_IN_A_ROW: usize = 32;

/// Lets the answered tasks run: their next checks then share the next batch. Unlike Tokio's
/// `yield_now`, does not wait until the runtime has polled for I/O.
pub(super) async fn yield_to_answered() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The checks of a call that the script did not decide, and that may be sent again.
#[derive(Default)]
pub(super) struct Undecided {
    /// The server failed a read or a write of theirs.
    pub(super) failed: PendingChecks,
    /// Their batch item arrived too late, by the earliest of its deadlines.
    pub(super) expired: PendingChecks,
}

/// Delivers the reply to a call.
pub(super) async fn deliver(call: Call, reply: ScriptReply, receipts: &Receipts<'_>) -> Undecided {
    let now = reply.now;
    let mut undecided = Undecided::default();
    for (checks, item) in call.items.into_iter().zip(reply.items) {
        match item {
            Ok(decided) => deliver_item(checks, now, decided, receipts).await,
            Err(ItemError::CommandFailed) => undecided.failed.extend(checks),
            Err(ItemError::Expired) => undecided.expired.extend(checks),
            Err(ItemError::WrongType) => {
                fail_all(
                    checks,
                    &unusable("a key of this identity holds a value of another type: delete it"),
                );
            }
            Err(ItemError::Unparsable) => {
                fail_all(
                    checks,
                    &unusable("the value of a key of this identity cannot be parsed: delete it"),
                );
            }
        }
    }
    undecided
}

/// Answers the checks of one batch item. The first `charged` checks that are not cancelled are allowed.
async fn deliver_item(
    checks: PendingChecks,
    now: u64,
    decided: DecidedItem,
    receipts: &Receipts<'_>,
) {
    let (denials, generations) = (&receipts.shared.denials, decided.generations);
    let (mut states, mut charges_left) = (decided.states, decided.charged);
    let is_single = checks.len() == 1;
    let mut is_cached = false;
    for (index, pending) in checks.into_iter().enumerate() {
        if index % MAX_ANSWERS_IN_A_ROW == MAX_ANSWERS_IN_A_ROW - 1 {
            yield_to_answered().await;
        }
        let is_reserving = pending.operation == Operation::Reserve;
        if !pending.operation.is_check() {
            let is_reset = pending.operation == Operation::Reset;
            if pending.operation != Operation::Renew {
                denials.invalidate(&pending.fingerprint, is_reset);
            }
            let mut verdict = Verdict::with_states(true, now, &states);
            if let Some(Settlement { receipt, .. }) = pending.settlement.as_deref() {
                verdict.receipt =
                    Some(Box::new(renewed(&pending, receipt, &generations, receipts)));
            }
            pending.answer(Ok(verdict));
            continue;
        }
        if is_single && charges_left == 1 && !is_reserving {
            // No other check needs the next states, so they are not computed.
            pending.answer(Ok(Verdict::new(true, now, states)));
            return;
        }
        // A reservation is released when its receipt is dropped.
        if pending.is_cancelled() && !is_reserving {
            continue;
        }
        let check = pending.check.borrow();
        let next_states = check.charge(now, &states);
        if next_states.is_some() != (charges_left > 0) {
            let error = "the script and the library decided differently";
            pending.answer(Err(unusable(error)));
            continue;
        }
        let mut verdict = Verdict::with_states(next_states.is_some(), now, &states);
        if let Some(next_states) = next_states.as_ref().filter(|_| is_reserving) {
            let next = check.quotas().zip(next_states).zip(&generations);
            let marks =
                next.map(|((quota, state), generation)| [*generation, quota.window_start(*state)]);
            verdict = verdict.with_receipt(receipts.receipt(&pending, marks.collect()));
        }
        if next_states.is_none() && !is_cached {
            denials.insert(
                &pending.fingerprint,
                &check,
                &verdict,
                receipts.source.charged_at,
            );
            is_cached = true;
        }
        // If the check was cancelled meanwhile, the next one takes its charge.
        if (pending.answer(Ok(verdict)) || is_reserving)
            && let Some(next_states) = next_states
        {
            charges_left -= 1;
            states = next_states;
        }
    }
}

/// Returns the receipt of a renewed charge. Its windows are those of the charge.
fn renewed(
    pending: &Request,
    receipt: &Receipt,
    generations: &[u64],
    receipts: &Receipts<'_>,
) -> Receipt {
    let windows = receipt.marks().iter().map(|[_, window]| *window);
    let windows = windows.chain(iter::repeat(0));
    let marks = generations.iter().zip(windows);
    let source = Source {
        // Before the renewal was submitted, the state had not been reset since the charge.
        charged_at: pending.deadline - pending.timeout,
        ..receipts.source.clone()
    };
    Receipt::new(marks.map(|(generation, window)| [*generation, window])).charged_by(source)
}

fn unusable(reason: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Unusable, reason)
}
