//! What is run: the words after `--`.

/// The options of the level.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// The tests to run, by the suite's short names; empty for all that is claimed.
    pub(crate) tests: Vec<String>,
    /// Write the report to `deploy/conformance/`.
    pub(crate) report: bool,
}

impl Options {
    /// Reads the words.
    ///
    /// # Errors
    /// A flag is not known, or a report is asked for of some tests alone.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self::default();
        for word in words {
            match word.as_str() {
                "--report" => options.report = true,
                flag if flag.starts_with('-') => {
                    anyhow::bail!("{flag:?} is not known; want names of tests, as HTTPRouteWeight, or --report")
                }
                _ => options.tests.push(word),
            }
        }
        anyhow::ensure!(
            !options.report || options.tests.is_empty(),
            "--report is of all tests: want no names of tests beside it"
        );
        Ok(options)
    }
}
