//! One row for each proxy: what it has of each type, and what it said about it.

use std::{collections::BTreeMap, sync::Arc};

use super::groups::{Group, groups};
use crate::{
    feedback::{Acked, Feedback, ProxyView, TypeState},
    model::{Audience, Role},
    snapshot::{Content, Seq, Views},
    xds::ResourceType,
};

/// One row of `proxy status`.
#[derive(Clone, Debug)]
pub struct Row {
    /// The proxy's node id.
    pub id: String,
    /// Its site, as proven or believed; the claimed one of a refused proxy.
    pub site: String,
    /// Its role.
    pub role: String,
    /// Whether a certificate proved it.
    pub proven: bool,
    /// One entry a type; shared by all that stand alike.
    pub types: Arc<Vec<TypeRow>>,
    /// Since its stream began.
    pub connected_seconds: u64,
    /// Why it is answered nothing; empty for a served proxy.
    pub refused: String,
}

/// One type of a row.
#[derive(Clone, Debug)]
pub struct TypeRow {
    /// The type.
    pub kind: ResourceType,
    /// `SYNCED`, `PENDING`, `NACKED` or `NOT_SUBSCRIBED`.
    pub state: &'static str,
    /// How many resources its view has.
    pub resources: u32,
    /// `<resource>: <the proxy's words>`.
    pub errors: Vec<String>,
}

/// Every proxy that is connected or was refused, by site and id.
pub fn proxies(views: &Views, feedback: &Feedback) -> Vec<Row> {
    let mut bare = Bare::default();
    let mut rows: Vec<Row> = Vec::new();
    for group in groups(views, feedback) {
        let one = row(&group, &mut bare);
        rows.extend(group.alike.members().map(|member| Row {
            id: member.id.node.to_string(),
            // A clock that was set back shows a new connection, which is the lesser lie.
            connected_seconds: member.since.elapsed().unwrap_or_default().as_secs(),
            ..one.clone()
        }));
    }
    rows.sort_by(|a, b| (&a.site, &a.id).cmp(&(&b.site, &b.id)));
    rows
}

fn row(group: &Group, bare: &mut Bare) -> Row {
    let proxy = &group.alike.one;
    let mut row = Row {
        id: String::new(),
        site: proxy.id.site.to_string(),
        role: String::new(),
        proven: false,
        types: Arc::default(),
        connected_seconds: 0,
        refused: proxy.refused.clone().unwrap_or_default(),
    };
    let Some(audience) = &proxy.audience else { return row };
    row.site = audience.site.to_string();
    audience.role.as_str().clone_into(&mut row.role);
    row.proven = audience.proven;
    let content = group.view.as_ref().map(|view| view.read());
    let of = |kind| match &content {
        Some(content) => type_row(kind, audience, proxy, content, bare),
        None => TypeRow { kind, state: "SYNCED", resources: 0, errors: Vec::new() },
    };
    let told = |row: &TypeRow| row.kind.common() || row.resources > 0 || proxy.types.contains_key(&row.kind);
    row.types = Arc::new(ResourceType::ALL.into_iter().map(of).filter(told).collect());
    row
}

/// How many resources are in each state.
type Counts = BTreeMap<&'static str, u32>;

/// Counts of proxies without exceptions: they follow from the view, the subscription and the cursor alone. Proxies that
/// refuse, each in its own words, share them too.
#[derive(Default)]
struct Bare(BTreeMap<(Audience, Seq, ResourceType, u64, Seq), Counts>);

fn type_row(kind: ResourceType, audience: &Audience, proxy: &ProxyView, content: &Content, bare: &mut Bare) -> TypeRow {
    // A gRPC client asks for the services that it calls: what it does not ask for is not its own.
    let by_name = audience.role == Role::Grpc;
    let Some(state) = proxy.types.get(&kind) else {
        if by_name {
            return TypeRow { kind, state: "SYNCED", resources: 0, errors: Vec::new() };
        }
        let resources = u32::try_from(content.entries(kind).count()).unwrap_or(u32::MAX);
        let word = if resources == 0 { "SYNCED" } else { "NOT_SUBSCRIBED" };
        return TypeRow { kind, state: word, resources, errors: Vec::new() };
    };
    let cursor = if state.acked >= content.newest(kind) { Seq(u64::MAX) } else { state.acked };
    let key = (audience.clone(), content.seq(), kind, state.subscription.digest(), cursor);
    let mut counts = bare.0.entry(key).or_insert_with(|| count(kind, state, content)).clone();
    let errors = except(kind, proxy, state, content, &mut counts);
    counts.retain(|word, count| *count > 0 && !(by_name && *word == "NOT_SUBSCRIBED"));
    let resources = counts.values().sum();
    let word = ["NACKED", "PENDING", "NOT_SUBSCRIBED"].into_iter().find(|word| counts.contains_key(word));
    TypeRow { kind, state: word.unwrap_or("SYNCED"), resources, errors }
}

/// As if nothing were pending or refused.
fn count(kind: ResourceType, state: &TypeState, content: &Content) -> Counts {
    let plain = TypeState { subscription: state.subscription.clone(), acked: state.acked, ..TypeState::default() };
    let mut counts = Counts::new();
    for (name, entry) in content.entries(kind) {
        *counts.entry(word(&plain.acked(name, entry.seq))).or_default() += 1;
    }
    counts
}

/// Puts what is pending or refused by name into its own state; answers the refusals in words.
fn except(
    kind: ResourceType,
    proxy: &ProxyView,
    state: &TypeState,
    content: &Content,
    counts: &mut Counts,
) -> Vec<String> {
    let mut errors = Vec::new();
    let plain = TypeState { subscription: state.subscription.clone(), acked: state.acked, ..TypeState::default() };
    let pending = state.pending.iter().filter(|name| !state.parked.contains_key(*name));
    for name in state.parked.keys().chain(pending) {
        let Some(entry) = content.get(kind, name) else { continue };
        let taken = if state.parked.contains_key(name) {
            proxy.taken(kind, name, entry.resource.version, entry.seq)
        } else if state.subscription.contains(name) {
            Acked::Pending
        } else {
            Acked::NotSubscribed
        };
        let before = word(&plain.acked(name, entry.seq));
        if let Some(count) = counts.get_mut(before) {
            *count = count.saturating_sub(1);
        }
        *counts.entry(word(&taken)).or_default() += 1;
        if let Acked::Refused(error) = taken {
            errors.push(format!("{name}: {error}"));
        }
    }
    errors
}

fn word(taken: &Acked) -> &'static str {
    match taken {
        Acked::Acked => "SYNCED",
        Acked::Pending => "PENDING",
        Acked::NotSubscribed => "NOT_SUBSCRIBED",
        Acked::Refused(_) => "NACKED",
    }
}
