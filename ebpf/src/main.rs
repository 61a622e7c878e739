//! Placeholder entry until the programs land.
#![no_std]
#![no_main]
