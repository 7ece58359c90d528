//! Splits a file's text into the texts of its documents.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// The byte order mark, which some editors write at the start of a file. Concatenated files have it
/// in later lines, too.
const MARK: char = '\u{feff}';

/// Decodes a file's text, which must be UTF-8.
pub(super) fn decode(bytes: Vec<u8>) -> Result<String, String> {
    let starts = |marks: &[&[u8]]| marks.iter().any(|mark| bytes.starts_with(mark));
    let is_wide = starts(&[&[0xff, 0xfe], &[0xfe, 0xff], &[0, 0, 0xfe, 0xff]]);
    if is_wide && bytes.contains(&0) {
        return Err(
            "not UTF-8 but UTF-16 or UTF-32, as written by PowerShell: save it as UTF-8".into(),
        );
    }
    if bytes.contains(&0) {
        return Err("not text: it contains zero bytes".into());
    }
    String::from_utf8(bytes).map_err(|_| "not UTF-8".into())
}

/// Reports whether a text is blank.
pub(super) fn is_empty(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || c == MARK)
}

/// Removes byte order marks at the starts of lines: YAML allows them only before a document.
pub(super) fn without_marks(text: &str) -> Cow<'_, str> {
    if !text.contains(MARK) {
        return text.into();
    }
    let rows = text.split_inclusive('\n');
    rows.map(|row| row.trim_start_matches(MARK)).collect()
}

/// A document's text.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Piece<'a> {
    /// The document's number, from 1.
    pub(super) document: usize,
    /// Number of lines of the file before it.
    pub(super) lines_before: usize,
    pub(super) text: &'a str,
}

/// Splits at lines that start with `---`, which YAML allows nowhere inside a document. The parser's
/// own iterator isn't used because it stops at the first error and skips empty documents, which
/// would make their numbers wrong.
pub(super) fn split(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut document, mut from, mut lines_before) = (1, 0, 0);
    let (mut at, mut line) = (0, 0);
    for row in text.split_inclusive('\n') {
        if is_marker(row) && at > 0 {
            let head = &text[from..at];
            // The text before the first marker is a document only if it has content.
            if document > 1 || !is_blank(head) {
                pieces.push(Piece {
                    document,
                    lines_before,
                    text: head,
                });
                document += 1;
            }
            (from, lines_before) = (at, line);
        }
        at += row.len();
        line += 1;
    }
    pieces.push(Piece {
        document,
        lines_before,
        text: &text[from..],
    });
    pieces.retain(|piece| !is_blank(piece.text));
    let mut more = 0;
    let pieces = pieces.into_iter().flat_map(|piece| {
        let mut parts = stream(piece);
        parts.iter_mut().for_each(|part| part.document += more);
        more += parts.len() - 1;
        parts
    });
    pieces.collect()
}

/// Splits a document that is a stream of JSON objects, as printed by `jq`; otherwise returns the
/// document itself. Never returns an empty list.
fn stream(piece: Piece<'_>) -> Vec<Piece<'_>> {
    let Some(first) = content(piece.text).filter(|at| piece.text[*at..].starts_with('{')) else {
        return vec![piece];
    };
    let rest = &piece.text[first..];
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
    let mut ends = Vec::new();
    while let Some(Ok(_)) = values.next() {
        ends.push(first + values.byte_offset());
    }
    // What follows the last readable value is left for the parser to judge.
    let (mut from, mut line) = (0, piece.lines_before);
    let mut parts = Vec::new();
    ends.push(piece.text.len());
    for end in ends {
        let text = &piece.text[from..end];
        if !is_blank(text) {
            parts.push(Piece {
                document: piece.document + parts.len(),
                lines_before: line,
                text,
            });
        }
        line += text.matches('\n').count();
        from = end;
    }
    parts
}

/// Returns where a document's content starts.
fn content(text: &str) -> Option<usize> {
    let mut at = 0;
    for row in text.split_inclusive('\n') {
        if !is_blank(row) {
            let marker = if is_marker(row) { 3 } else { 0 };
            let content = row[marker..].trim_start();
            return Some(at + row.len() - content.len());
        }
        at += row.len();
    }
    None
}

fn is_marker(row: &str) -> bool {
    row.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// Comments, directives and markers alone don't make a document.
fn is_blank(text: &str) -> bool {
    text.lines().all(|row| {
        let row = row.trim_end();
        let bare = row.trim_start();
        bare.is_empty()
            || bare.starts_with('#')
            || row.starts_with('%')
            || row == "---"
            || row == "..."
    })
}
