//! The requests of a stream, cut out of its body.
//!
//! Between two of them no bytes are kept: tonic's own reader keeps a buffer of the largest, which for an Envoy is the
//! 61 kB of its node, once for each of ten thousand streams.

use std::{future::poll_fn, pin::Pin};

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tonic::{Status, codegen::Body};

use super::{
    intake::Held,
    wire::{Ask, DeltaRequest, Variant, WorldRequest},
};

/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Of a message that has only begun, so many bytes are believed in advance.
const RESERVED: usize = 256 << 10;

/// The requests of one stream.
#[derive(Debug)]
pub(super) struct Requests {
    body: tonic::body::Body,
    variant: Variant,
    /// Bytes of one message.
    limit: usize,
    /// What has come of messages that are not given out yet.
    buffer: BytesMut,
    /// Its bytes.
    held: Held,
}

impl Requests {
    /// The requests in `body`, each of at most `limit` bytes; what has come of them counts as `held`.
    pub(super) fn new(body: tonic::body::Body, variant: Variant, limit: usize, held: Held) -> Self {
        Self { body, variant, limit, buffer: BytesMut::new(), held }
    }

    /// The next request; `None` when the client has ended the stream. May be dropped while it waits.
    ///
    /// # Errors
    /// What the stream has to be closed with.
    pub(super) async fn message(&mut self) -> Result<Option<Ask>, Status> {
        loop {
            if let Some(message) = self.cut()? {
                return self.decode(message).map(Some);
            }
            match poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ends within a message")),
                Some(Err(status)) => return Err(status),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        if !self.held.take(data.len()) {
                            return Err(Status::resource_exhausted("too much has come of this connection's requests"));
                        }
                        self.buffer.extend_from_slice(&data);
                        self.held.keep(data);
                    }
                }
            }
        }
    }

    /// A whole message, if there is one.
    fn cut(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(&[compressed, ref length @ ..]) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        if compressed != 0 {
            return Err(Status::internal("a compressed message, though no compression was agreed upon"));
        }
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > self.limit {
            let limit = self.limit;
            return Err(Status::out_of_range(format!(
                "a message of {length} bytes is too large, the limit is {limit}"
            )));
        }
        let missing = (PREFIX + length).saturating_sub(self.buffer.len());
        if missing > 0 {
            // At once, as far as most go: a buffer that grows by doubling copies what it has again and again.
            self.buffer.reserve(missing.min(RESERVED));
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length).freeze();
        self.held.give_back(PREFIX + length);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }

    fn decode(&self, message: Bytes) -> Result<Ask, Status> {
        let (name, decoded) = match self.variant {
            Variant::Delta => ("DeltaDiscoveryRequest", DeltaRequest::decode(message).map(Ask::Delta)),
            Variant::World => ("DiscoveryRequest", WorldRequest::decode(message).map(Ask::World)),
        };
        decoded.map_err(|e| Status::invalid_argument(format!("no {name}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::serve::intake::Arrival;

    fn framed(length: u32, payload: &[u8]) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), payload].concat()
    }

    fn requests(arrival: &Arrival, pieces: Vec<Vec<u8>>) -> Requests {
        use http_body_util::StreamBody;
        let frames = pieces.into_iter().map(|piece| Ok::<_, Status>(http_body::Frame::data(Bytes::from(piece))));
        let body = tonic::body::Body::new(StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>())));
        Requests::new(body, Variant::Delta, 1_000, arrival.hold())
    }

    fn request(name: &str) -> Vec<u8> {
        let payload = envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest {
            type_url: name.into(),
            ..Default::default()
        }
        .encode_to_vec();
        framed(u32::try_from(payload.len()).unwrap(), &payload)
    }

    #[tokio::test]
    async fn requests_come_whole_however_their_bytes_come_and_nothing_is_kept_of_them() {
        let wire = [request("one"), request("two"), framed(0, b"")].concat();
        let arrival = Arrival::default();
        for size in [1, 4, 7, wire.len()] {
            let mut requests = requests(&arrival, wire.chunks(size).map(<[u8]>::to_vec).collect());
            for expected in ["one", "two", ""] {
                let mut ask = requests.message().await.unwrap().unwrap();
                assert_eq!(ask.url(), expected);
            }
            assert_eq!(requests.buffer.capacity(), 0);
            assert!(requests.message().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_request_of_just_the_limit_is_taken() {
        // Tag and length take three bytes.
        let wire = request(&"x".repeat(997));
        assert_eq!(wire.len(), PREFIX + 1_000);
        let arrival = Arrival::default();
        assert!(requests(&arrival, vec![wire]).message().await.is_ok());
        assert!(requests(&arrival, vec![request(&"x".repeat(998))]).message().await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_request_ends_the_stream_with_its_reason() {
        let cases = [
            (framed(1_001, b""), Code::OutOfRange),
            (framed(3, b"ab"), Code::Internal),
            ([&[1][..], &[0; 4]].concat(), Code::Internal),
            (framed(1, &[0xff]), Code::InvalidArgument),
        ];
        for (wire, code) in cases {
            assert_eq!(
                requests(&Arrival::default(), vec![wire.clone()]).message().await.unwrap_err().code(),
                code,
                "{wire:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_has_come_of_requests_counts_for_the_connection_until_they_are_whole() {
        let arrival = Arrival::default();
        let mut others = arrival.hold();
        while others.take(1 << 10) {}
        others.give_back(1 << 10);
        let half = |length| vec![framed(length, &[]), vec![0; 600]];
        assert_eq!(
            requests(&arrival, half(1_000)).message().await.unwrap_err().code(),
            Code::Internal,
            "it ends early"
        );
        let many: Vec<_> = (0..100).map(|n| request(&format!("request {n}"))).collect();
        let mut many = requests(&arrival, [many, vec![vec![0; 1_020]]].concat());
        for _ in 0..100 {
            assert!(many.message().await.is_ok_and(|request| request.is_some()));
        }
        let mut more = arrival.hold();
        assert!(more.take(10));
        assert_eq!(many.message().await.unwrap_err().code(), Code::ResourceExhausted);
        drop(many);
        assert!(more.take((1 << 10) - 10), "what a stream held that has ended comes back");
    }
}
