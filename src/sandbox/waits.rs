//! Reports that a package waits for others.

use std::future::Future;

/// Calls a function at the first report.
pub(super) struct ReportOnce<'a>(Option<&'a (dyn Fn() + Send + Sync)>);

impl<'a> ReportOnce<'a> {
    pub(super) fn new(waits: &'a (dyn Fn() + Send + Sync)) -> Self {
        Self(Some(waits))
    }

    pub(super) fn report(&mut self) {
        if let Some(waits) = self.0.take() {
            waits();
        }
    }

    /// Awaits `future`, and reports if it is not ready at once.
    pub(super) async fn unless_ready<T>(&mut self, future: impl Future<Output = T>) -> T {
        tokio::pin!(future);
        tokio::select! {
            biased;
            // Cancel-safe: the same future is polled on below.
            output = &mut future => return output,
            () = std::future::ready(()) => {}
        }
        self.report();
        future.await
    }
}
