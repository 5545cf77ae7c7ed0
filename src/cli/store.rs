//! `tidegate store …`: what an operator says about the store itself.

use std::time::Duration;

use super::{
    Failure, Global, Io,
    client::{Client, call},
};
use crate::rpc::AcceptStoreRequest;

/// A replica reads the whole store before it answers.
const LISTING: Duration = Duration::from_secs(30);

/// `tidegate store accept`.
pub(crate) async fn accept(global: &Global, io: &mut Io<'_>) -> Result<(), Failure> {
    let mut client = Client::connect(global).await?;
    let accepted = call!(client, global.request_timeout.max(LISTING), accept_store, AcceptStoreRequest {})?;
    writeln!(
        io.out,
        "{} goes on with the store {} from revision {}; other replicas have to be told too (--server)",
        accepted.replica, accepted.store, accepted.revision
    )?;
    Ok(())
}
