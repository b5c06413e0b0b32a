//! Settles and renews charges.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::fingerprint::Fingerprint;
use super::pending::{Answer, Request, Settlement};
use super::script::Operation;
use super::shared::Shared;
use crate::store::check::OwnedCheck;
use crate::store::receipt::{Receipt, Source};

/// A settlement that takes longer is lost. The charge then stands, and a reservation lapses.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Makes the receipts of the checks in one call.
pub(super) struct Receipts<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) source: Source,
}

impl Receipts<'_> {
    /// Creates the receipt of a check. Dropping a receipt that was not kept releases the charge.
    pub(super) fn receipt(&self, request: &Request, marks: Vec<[u64; 2]>) -> Receipt {
        let receipt = Receipt::new(marks).charged_by(self.source.clone());
        let (shared, settled) = (self.shared.clone(), receipt.clone());
        let (check, fingerprint) = (request.check.clone(), request.fingerprint);
        receipt.or_release(move || {
            submit(&shared, Operation::Settle, check, fingerprint, settled, 0);
        })
    }
}

/// Sends a settlement or a renewal through the runtime that has charged the check. Returns `None` if the
/// state was reset since, which closed the charge.
pub(super) fn submit(
    shared: &Arc<Shared>,
    operation: Operation,
    check: OwnedCheck,
    fingerprint: Fingerprint,
    receipt: Receipt,
    used: u32,
) -> Option<Answer> {
    // Read before the search for a reset, so that a renewed receipt is void after a reset since then.
    let submitted_at = Instant::now();
    let runtime = match &receipt.source {
        Some(source)
            if shared
                .denials
                .was_reset_since(&fingerprint, source.charged_at) =>
        {
            return None;
        }
        Some(source) => source.runtime.clone(),
        None => Handle::try_current().ok()?,
    };
    let deadline = submitted_at + TIMEOUT;
    let slot = shared.topology.slot(check.borrow().identity);
    let mut request = Request::new(operation, check, fingerprint, TIMEOUT, deadline);
    request.slot = slot;
    request.settlement = Some(Box::new(Settlement { receipt, used }));
    let (pending, answer) = request.start();
    shared.topology.submit(shared, &runtime, pending);
    Some(answer)
}
