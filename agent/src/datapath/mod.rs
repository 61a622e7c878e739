//! Model -> maps, programs, links: the stage that makes the kernel forward.
pub mod load;
pub mod maglev;
pub mod maps;
pub mod plan;
pub mod rows;
pub mod space;
