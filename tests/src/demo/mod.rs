//! The demo: the main job end to end, told with its evidence.
//!
//! A real agent reads `deploy/examples/demo/*.yaml` in the [`netns`](crate::netns) lab. Each chapter makes one claim,
//! does what it takes to prove it, prints the evidence as it comes, and ends in one line of the summary that is true or
//! not. A chapter that fails is a line that is not true; the others are still told.
mod change;
pub mod keep;
mod layer4;
mod layer7;
mod stage;
mod story;

use std::time::Instant;

use crate::netns::run;
use stage::Stage;
use story::Story;

/// Shows it; `keep` leaves everything standing. True when every line of the summary is.
///
/// # Errors
/// Not root, or the stage cannot be set.
pub fn show(keep: bool) -> anyhow::Result<bool> {
    run::require_root()?;
    let began = Instant::now();
    let mut story = Story::new();
    let mut stage = Stage::set(&mut story)?;
    layer4::tell(&mut story, &stage);
    layer7::tell(&mut story, &stage);
    change::tell(&mut story, &mut stage);
    layer4::look_into_maps(&mut story, &stage);
    if keep {
        story.summary(began.elapsed());
        let all_true = story.all_true();
        keep::leave(stage)?;
        return Ok(all_true);
    }
    stage.clear(&mut story);
    story.summary(began.elapsed());
    Ok(story.all_true())
}
