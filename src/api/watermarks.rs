//! The sites' watermarks: those of the store for people, and this replica's own reports for the leader.

use std::{sync::Arc, time::Duration};

use futures::Stream;
use tonic::Status;

use super::Context;
use crate::{
    replicas::{self, OwnSites},
    rpc::{SiteWatermark, WatermarksResponse},
    status::{self, Edition},
};

/// How often a subscriber's report is looked at.
const CHECK: Duration = Duration::from_millis(100);

/// Every site's watermark, and how many objects it lacks.
pub(super) fn sites(context: &Context) -> Vec<SiteWatermark> {
    let configuration = context.state().configuration.clone();
    let watermarks = Arc::clone(&context.watermarks.borrow());
    let site = |(site, watermark): (&Arc<str>, &crate::model::Watermark)| {
        let later = configuration.iter().filter(|stored| stored.mod_revision > watermark.revision).count();
        SiteWatermark {
            site: site.to_string(),
            revision: watermark.revision.0,
            except: watermark.except.iter().cloned().collect(),
            connected: watermark.connected,
            behind: u32::try_from(later).unwrap_or(u32::MAX),
        }
    };
    watermarks.iter().map(site).collect()
}

/// This replica's own report: at once, and whenever it differs from what was sent. A slow reader is sent the newest one
/// when it reads again.
pub(super) fn reports(context: Context) -> impl Stream<Item = Result<WatermarksResponse, Status>> + Send {
    futures::stream::unfold((context, OwnSites::default(), None), |(context, mut own, sent)| async move {
        loop {
            let Context { views, feedback, .. } = &context;
            let report = own.reports(Edition::of(views, feedback), || status::watermarks(views, feedback));
            if sent.as_ref() != Some(report) {
                let report = report.clone();
                let response = WatermarksResponse { sites: replicas::site_reports(&report) };
                return Some((Ok(response), (context, own, Some(report))));
            }
            tokio::time::sleep(CHECK).await;
        }
    })
}
