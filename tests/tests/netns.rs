//! The real agent between network namespaces, with real sockets.
mod netns {
    mod announce;
    mod change;
    mod cli;
    mod crowd;
    mod discovery;
    mod flips;
    mod flood;
    mod forward;
    mod frames;
    mod fuzz;
    mod grpc;
    mod http;
    mod http2;
    mod https;
    mod input;
    mod kernel;
    mod lab;
    mod limits;
    mod mesh;
    mod mtu;
    mod network;
    mod node;
    mod own;
    mod pins;
    mod restart;
    mod sources;
    mod streams;
    mod tables;
    mod vanish;
    mod ways;
    mod websocket;
}
