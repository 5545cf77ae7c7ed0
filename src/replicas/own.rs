//! What this replica's own proxies have come to, for whoever asks again and again.

use std::time::Instant;

use super::SiteReports;
use crate::status::Edition;

/// Looking at all own proxies may take this share of the time: at ten thousand it is tens of milliseconds.
const SHARE: u32 = 30;

/// The last look. All proxies are looked at anew only where anything has changed, and no more often than its cost allows.
#[derive(Debug, Default)]
pub struct OwnSites {
    report: SiteReports,
    edition: Option<Edition>,
    due: Option<Instant>,
}

impl OwnSites {
    /// What they have come to, a little ago perhaps: what `look` finds out, of which this is the `edition`, from before
    /// the look, so that what changes while it goes on is looked at again.
    pub fn reports(&mut self, edition: Edition, look: impl FnOnce() -> SiteReports) -> &SiteReports {
        let began = Instant::now();
        if self.edition != Some(edition) && self.due.is_none_or(|due| due <= began) {
            (self.report, self.edition) = (look(), Some(edition));
            self.due = Some(began + began.elapsed() * SHARE);
        }
        &self.report
    }
}
