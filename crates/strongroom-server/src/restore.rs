//! Reading back many keys: page by page, in memory that does not grow with the backup.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, Version as HttpVersion, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use strongroom_protocol::{KeysShape, KeysWriter, RoomId, UserId, Version};
use strongroom_store::{KeySet, Page, PageSize, Position, Result, Store};
use tokio::sync::mpsc;
use tracing::Instrument as _;

use crate::refusal::json;

/// Small, so that the first byte is there at once and a small backup is one piece.
const FIRST_PAGE: PageSize = PageSize { keys_max: 64, bytes_max: 64 * 1024 };
/// Large enough that the look-up of where a page begins costs nothing beside it.
const PAGE: PageSize = PageSize { keys_max: 1024, bytes_max: 128 * 1024 };

/// Which keys are asked for.
pub(crate) struct KeysOf {
    pub(crate) user_id: UserId,
    /// The current one, if none is given.
    pub(crate) version: Option<Version>,
    /// All rooms, if none is given.
    pub(crate) room_id: Option<RoomId>,
}

/// Answers with the keys of a backup, all or those of one room.
///
/// Trouble before the first byte is an error; after it the connection is cut, so that a part of a
/// backup never looks like the whole.
pub(crate) async fn restore(
    store: Arc<dyn Store>,
    keys: KeysOf,
    http: HttpVersion,
) -> Result<Response> {
    let (pages, first) = Pages::begin(store, keys).await?;
    if pages.is_done() {
        return Ok(json(StatusCode::OK, first));
    }
    // Over HTTP/1.0 a cut is seen only by a length, which one more reading finds out.
    let length = if http < HttpVersion::HTTP_11 {
        Some(first.len() + pages.clone().length_left().await?)
    } else {
        None
    };
    let mut response = json(StatusCode::OK, Body::from_stream(stream(first, pages, length)));
    if let Some(length) = length.and_then(|length| HeaderValue::try_from(length.to_string()).ok()) {
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    Ok(response)
}

/// Why a restore ends before its end.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the store failed")]
    Store(#[source] strongroom_store::Error),
    #[error("keys were added since the length was announced")]
    Grown,
}

/// The pages as they go out: one is read while the one before is sent. Never more than `length`
/// bytes, which would be cut off at that length and look whole.
fn stream(
    first: Bytes,
    mut pages: Pages,
    length: Option<usize>,
) -> impl stream::Stream<Item = std::result::Result<Bytes, Cut>> {
    let (sender, receiver) = mpsc::channel(1);
    let produce = async move {
        let (mut left, mut next) = (length, Ok(Some(first)));
        while let Some(piece) = next.transpose() {
            let piece = piece.map_err(Cut::Store).and_then(|piece| match &mut left {
                Some(left) => {
                    *left = left.checked_sub(piece.len()).ok_or(Cut::Grown)?;
                    Ok(piece)
                }
                None => Ok(piece),
            });
            if let Err(error) = &piece {
                tracing::error!(error = error as &dyn std::error::Error, "a restore was cut off");
            }
            let has_failed = piece.is_err();
            // Sending fails once the client has hung up.
            if sender.send(piece).await.is_err() || has_failed {
                break;
            }
            next = pages.next().await;
        }
    };
    tokio::spawn(produce.instrument(tracing::Span::current()));
    stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    })
}

/// The JSON document of a key set, piece by piece.
#[derive(Clone)]
struct Pages {
    store: Arc<dyn Store>,
    key_set: KeySet,
    room_id: Option<RoomId>,
    after: Option<Position>,
    /// Gone when the document has ended.
    writer: Option<KeysWriter>,
}

impl Pages {
    /// Reads the first page as well, with which the set is chosen: what is read is of one moment.
    async fn begin(store: Arc<dyn Store>, keys: KeysOf) -> Result<(Self, Bytes)> {
        let KeysOf { user_id, version, room_id } = keys;
        let shape = if room_id.is_some() { KeysShape::Sessions } else { KeysShape::Rooms };
        let first = store.first_page(&user_id, version, room_id.as_ref(), FIRST_PAGE).await;
        let (key_set, page) = first?;
        let mut pages = Self { store, key_set, room_id, after: None, writer: None };
        let first = pages.write(KeysWriter::new(shape), &page);
        Ok((pages, first))
    }

    const fn is_done(&self) -> bool {
        self.writer.is_none()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let (Some(writer), Some(after)) = (self.writer.take(), &self.after) else {
            return Ok(None);
        };
        let page = self.store.page(self.key_set, self.room_id.as_ref(), after, PAGE).await?;
        Ok(Some(self.write(writer, &page)))
    }

    fn write(&mut self, mut writer: KeysWriter, page: &Page) -> Bytes {
        if page.left_out() > 0 {
            let keys = page.left_out();
            tracing::error!(keys, "damaged keys were left out of a restore");
        }
        let mut out = Vec::with_capacity(Self::bytes_about(page));
        for key in page.iter() {
            writer.key(&mut out, key);
        }
        if page.is_full() {
            self.after = page.last();
            self.writer = Some(writer);
        } else {
            writer.finish(&mut out);
        }
        out.into()
    }

    /// What a page takes as JSON, and a little more, so that the buffer need not grow.
    fn bytes_about(page: &Page) -> usize {
        page.bytes() + page.len() * 128 + 256
    }

    /// The bytes of all pieces that are still to come.
    async fn length_left(mut self) -> Result<usize> {
        let mut length = 0;
        while let Some(piece) = self.next().await? {
            length += piece.len();
        }
        Ok(length)
    }
}
