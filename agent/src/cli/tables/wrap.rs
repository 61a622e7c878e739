//! A table that is no wider than its terminal: cells wrap between words, each within its column.

/// Blanks between two columns.
const GAP: usize = 2;

/// Rows of equally many cells, the header first. Words are never broken: a table whose words alone are wider stays wider.
pub(super) fn table(rows: &[Vec<String>], width: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widest = |column: usize, of: fn(&str) -> usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| of(cell)).max().unwrap_or_default()
    };
    let least = (0..columns).map(|column| widest(column, longest_word)).collect::<Vec<_>>();
    let mut widths = (0..columns).map(|column| widest(column, letters)).collect::<Vec<_>>();
    let gaps = GAP * columns.saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        let may_shrink = (0..columns).filter(|column| widths[*column] > least[*column]);
        let Some(column) = may_shrink.max_by_key(|column| widths[*column]) else { break };
        widths[column] -= 1;
    }
    let mut lines = Vec::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| fold(cell, *width)).collect::<Vec<_>>();
        for line in 0..cells.iter().map(Vec::len).max().unwrap_or_default() {
            let part = |(cell, width): (&Vec<String>, &usize)| {
                let text = cell.get(line).map_or("", String::as_str);
                format!("{text}{}", " ".repeat(width.saturating_sub(letters(text)) + GAP))
            };
            lines.push(cells.iter().zip(&widths).map(part).collect::<String>().trim_end().to_owned());
        }
    }
    lines.join("\n")
}

fn letters(text: &str) -> usize {
    text.chars().count()
}

fn longest_word(text: &str) -> usize {
    text.split(' ').map(letters).max().unwrap_or_default()
}

/// A cell as lines of at most `width`, but for words that are longer.
fn fold(cell: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in cell.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if letters(line) + 1 + letters(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
