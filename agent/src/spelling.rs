//! Names that were probably meant: for fields, objects and kinds that do not exist as they were written.

/// Characters of a name that is compared at most: the comparison costs their square.
const LONGEST: usize = 64;

/// The nearest of the known names, where one is near enough to be offered: a few letters away, whatever their case.
#[must_use]
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = written.chars().take(LONGEST + 1).count();
    if letters > LONGEST {
        return None;
    }
    let lower = written.to_lowercase();
    let near = known.into_iter().map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name));
    // A third of the letters may be wrong: more would be another word.
    let limit = (letters / 3).clamp(1, 4);
    near.filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_letters_away_is_near_and_another_word_is_not() {
        let known = ["hostnames", "loadBalancerIP", "loadBalancerSourceRanges", "parentRefs", "path", "rules", "value"];
        for (written, expected) in [
            ("loadBalancerSourceRange", Some("loadBalancerSourceRanges")),
            ("loadbalancerip", Some("loadBalancerIP")),
            ("hostname", Some("hostnames")),
            ("paths", Some("path")),
            ("values", Some("value")),
            ("parentRef", Some("parentRefs")),
            ("ruels", Some("rules")),
            ("backends", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, known), expected, "{written}");
        }
        assert_eq!(nearest("a", []), None);
        assert_eq!(nearest(&"a".repeat(1 << 20), ["a"]), None);
    }
}
