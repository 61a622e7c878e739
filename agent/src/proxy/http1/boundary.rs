//! Where the messages of a client's connection begin and end, as hyper sees it.
//!
//! # Design
//! - How long a body is, hyper says: when it has parsed a head it calls the service, and what the service is given becomes
//!   [`Announced`]. So of heads only the end is looked for here, which is the first empty line behind the request line, and
//!   of chunked bodies the grammar that hyper's decoder has, state by state.
//! - Nothing behind a boundary is given to hyper before it has asked for it. That hyper wants more of a message that has
//!   ended here, or an announcement is missing, is a difference: from then on, and behind all that is not understood, the
//!   rest of the connection is [`Part::Foreign`] and passes as it is, and no further request of it is served.
//! - A wrong boundary could at worst escape bytes of a body; what is a message, and whose, hyper alone decides.
//!
//! Source: `parse_headers`, `Decoder` of hyper 1.12, `Request::parse` of httparse 1.10; the tests compare with them.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use http::{Method, Request};
use http_body::Body;

/// What hyper found in a head, from the service to the stream below, and what the stream found, the other way.
#[derive(Debug)]
pub(in crate::proxy) struct Announced {
    /// The length of the body in bytes, or one of the values above all lengths.
    follows: AtomicU64,
    /// The head has both `Content-Length` and `Transfer-Encoding`; hyper shows only the latter.
    two_framings: AtomicBool,
    /// The stream does not know any more where heads are.
    lost: AtomicBool,
    /// The connection has switched to another protocol.
    switched: AtomicBool,
    /// When hyper last had all that came, a message had ended, and of the next one nothing was there.
    between: AtomicBool,
}

const NOTHING: u64 = u64::MAX;
const CHUNKED: u64 = u64::MAX - 1;
const FOREIGN: u64 = u64::MAX - 2;

/// Why the framing of a request is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Doubt {
    /// It has two.
    TwoFramings,
    /// The stream below hyper has lost its place: it cannot say.
    Lost,
}

impl Default for Announced {
    fn default() -> Self {
        let [two_framings, lost, switched, between] = std::array::from_fn(|_| AtomicBool::new(false));
        Self { follows: AtomicU64::new(NOTHING), two_framings, lost, switched, between }
    }
}

impl Announced {
    /// Says what follows the head of this request, which hyper has just parsed; tells what is in doubt about it.
    pub(in crate::proxy) fn announce<B: Body>(&self, request: &Request<B>) -> Option<Doubt> {
        let follows = match request.body().size_hint().exact() {
            // Were it ever served, what follows would be a tunnel.
            _ if *request.method() == Method::CONNECT => FOREIGN,
            Some(length) => length.min(FOREIGN),
            None => CHUNKED,
        };
        self.follows.store(follows, Relaxed);
        match (self.two_framings.swap(false, Relaxed), self.lost.load(Relaxed)) {
            (_, true) => Some(Doubt::Lost),
            (true, false) => Some(Doubt::TwoFramings),
            (false, false) => None,
        }
    }

    /// Says that the connection has left HTTP.
    pub(in crate::proxy) fn switch(&self) {
        self.switched.store(true, Relaxed);
    }

    /// Whether what has come so far are whole messages.
    pub(in crate::proxy) fn is_between(&self) -> bool {
        self.between.load(Relaxed)
    }

    pub(super) fn set_between(&self, between: bool) {
        self.between.store(between, Relaxed);
    }

    pub(super) fn is_switched(&self) -> bool {
        self.switched.load(Relaxed)
    }

    /// A head has ended that has these fields.
    pub(super) fn found(&self, fields: Fields) {
        if fields.length && fields.coding {
            self.two_framings.store(true, Relaxed);
        }
    }

    /// The place is lost.
    pub(super) fn lose(&self) {
        self.lost.store(true, Relaxed);
    }

    fn take(&self) -> u64 {
        self.follows.swap(NOTHING, Relaxed)
    }
}

/// Which fields of the framing a head has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    length: bool,
    coding: bool,
}

/// The name of a field of the framing, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// So many letters of it are there.
    Length(usize),
    /// Likewise.
    Coding(usize),
}

const LENGTH: &[u8] = b"content-length:";
const CODING: &[u8] = b"transfer-encoding:";

/// Which part of a message the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Empty lines before a request line, or its first byte.
    Start,
    /// The method, to the space behind it.
    Method,
    /// The target, before its first byte.
    Target,
    /// The path of a target that begins with `/`.
    Path,
    /// The query of one.
    Query,
    /// What else the line has, be it of the head's request line or of its fields.
    Line,
    /// The first byte of a line behind the request line.
    LineStart,
    /// The name of a field.
    Name(Name),
    /// The line feed of the empty line.
    HeadLf,
    /// The head has ended; what follows is not announced yet.
    HeadEnd,
    /// So many bytes of a body.
    Body(u64),
    /// A chunked body.
    Chunk(Chunk),
    /// Unknown, to the end of the connection.
    Foreign,
}

/// A place in a chunked body. Source: RFC 9112 part 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The first digit of a size.
    First,
    /// Another digit, or what is behind the size so far.
    Size(u64),
    /// White space behind a size.
    Space(u64),
    /// An extension of a chunk of that size.
    Extension(u64),
    /// The line feed behind a size.
    SizeLf(u64),
    /// So many bytes of data.
    Data(u64),
    /// The carriage return behind the data.
    DataCr,
    /// Its line feed.
    DataLf,
    /// The first byte of a line behind the last chunk.
    TrailerStart,
    /// A trailer.
    Trailer,
    /// The line feed behind a trailer.
    TrailerLf,
    /// The line feed behind all.
    EndLf,
}

impl Part {
    /// Whether the boundary of a message is here: what follows waits until it is asked for.
    #[must_use]
    pub(super) fn is_boundary(self) -> bool {
        matches!(self, Self::HeadEnd | Self::Start)
    }

    /// Whether this byte of a target is escaped here: one that the `http` crate takes for part of no path, or no query.
    #[must_use]
    pub(super) fn escapes(self, byte: u8) -> bool {
        match self {
            Self::Path => matches!(byte, b'<' | b'>' | b'`'),
            Self::Query => matches!(byte, b'<' | b'>' | b'"'),
            _ => false,
        }
    }

    /// Whether the byte counts towards a head.
    #[must_use]
    pub(super) fn is_head(self) -> bool {
        !matches!(self, Self::HeadEnd | Self::Body(_) | Self::Chunk(_) | Self::Foreign)
    }

    /// hyper asks for bytes: behind a head what was announced begins.
    #[must_use]
    pub(super) fn asked(self, announced: &Announced) -> Self {
        if self != Self::HeadEnd {
            return self;
        }
        match announced.take() {
            NOTHING | FOREIGN => Self::Foreign,
            CHUNKED => Self::Chunk(Chunk::First),
            0 => Self::Start,
            length => Self::Body(length),
        }
    }

    /// Goes on over bytes up to a boundary or a byte that is escaped, and says how many these are.
    ///
    /// Cost: linear in the bytes, data of bodies free.
    pub(super) fn pass(&mut self, bytes: &[u8], fields: &mut Fields) -> usize {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.escapes(byte) {
                break;
            }
            let before = *self;
            at += self.step(byte, &bytes[at..], fields);
            if self.is_boundary() && before != Self::Start {
                break;
            }
        }
        at
    }

    /// Takes the first of these bytes, or as many as are alike.
    fn step(&mut self, byte: u8, rest: &[u8], fields: &mut Fields) -> usize {
        let mut taken = 1;
        *self = match (*self, byte) {
            (Self::Start, b'\r' | b'\n') => Self::Start,
            (Self::Start, _) => Self::Method,
            (Self::Method, b' ') => Self::Target,
            // hyper answers 400 to a line without target or version, and to what else is none here.
            (Self::Method | Self::Target | Self::Path | Self::Query, b'\r' | b'\n') => Self::Foreign,
            (Self::Target, b'/') => Self::Path,
            (Self::Target, _) | (Self::Path | Self::Query, b' ' | b'#') => Self::Line,
            (Self::Path, b'?') => Self::Query,
            (Self::Line, _) => match memchr::memchr(b'\n', rest) {
                Some(end) => {
                    taken = end + 1;
                    Self::LineStart
                }
                None => {
                    taken = rest.len();
                    Self::Line
                }
            },
            (Self::LineStart, b'\r') => Self::HeadLf,
            (Self::LineStart | Self::HeadLf, b'\n') => Self::HeadEnd,
            (Self::LineStart, b'c' | b'C') => Self::Name(Name::Length(1)),
            (Self::LineStart, b't' | b'T') => Self::Name(Name::Coding(1)),
            (Self::LineStart, _) => Self::Line,
            (Self::Name(name), _) => match name.next(byte, fields) {
                Some(name) => Self::Name(name),
                // The byte may be the line's last.
                None => {
                    taken = 0;
                    Self::Line
                }
            },
            (Self::Body(left), _) => {
                taken = fitting(left, rest);
                match left - taken as u64 {
                    0 => Self::Start,
                    left => Self::Body(left),
                }
            }
            (Self::Chunk(Chunk::Data(left)), _) => {
                taken = fitting(left, rest);
                match left - taken as u64 {
                    0 => Self::Chunk(Chunk::DataCr),
                    left => Self::Chunk(Chunk::Data(left)),
                }
            }
            (Self::Chunk(Chunk::EndLf), b'\n') => Self::Start,
            (Self::Chunk(chunk), byte) => chunk.next(byte).map_or(Self::Foreign, Self::Chunk),
            (Self::Foreign, _) => {
                taken = rest.len();
                Self::Foreign
            }
            (Self::HeadEnd, _) => {
                taken = 0;
                Self::HeadEnd
            }
            (same @ (Self::Method | Self::Path | Self::Query), _) => same,
            (Self::HeadLf, _) => Self::Foreign,
        };
        taken
    }
}

impl Name {
    /// The name with this byte; `None` when it has ended, or is another one.
    fn next(self, byte: u8, fields: &mut Fields) -> Option<Self> {
        let (name, at) = match self {
            Self::Length(at) => (LENGTH, at),
            Self::Coding(at) => (CODING, at),
        };
        if name.get(at) != Some(&byte.to_ascii_lowercase()) {
            return None;
        }
        match self {
            Self::Length(_) => fields.length |= at + 1 == name.len(),
            Self::Coding(_) => fields.coding |= at + 1 == name.len(),
        }
        Some(match self {
            Self::Length(at) => Self::Length(at + 1),
            Self::Coding(at) => Self::Coding(at + 1),
        })
    }
}

/// How many of these bytes belong to what has so many left.
fn fitting(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

impl Chunk {
    /// The place behind this byte; `None` where hyper's decoder sees an error.
    fn next(self, byte: u8) -> Option<Self> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        Some(match (self, byte) {
            (Self::First, _) => Self::Size(digit?),
            (Self::Size(size), _) if digit.is_some() => Self::Size(size.checked_mul(16)?.checked_add(digit?)?),
            (Self::Size(size) | Self::Space(size), b'\t' | b' ') => Self::Space(size),
            (Self::Size(size) | Self::Space(size), b';') => Self::Extension(size),
            (Self::Size(size) | Self::Space(size) | Self::Extension(size), b'\r') => Self::SizeLf(size),
            (Self::Extension(_), b'\n') => return None,
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeLf(0) | Self::TrailerLf, b'\n') => Self::TrailerStart,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::First,
            (Self::TrailerStart, b'\r') => Self::EndLf,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::TrailerStart | Self::Trailer, _) => Self::Trailer,
            _ => return None,
        })
    }
}
