//! The real agent and a real control plane; its nodes and pods are objects and namespaces.
mod cluster {
    mod addresses;
    mod admission;
    mod announce;
    mod api;
    mod chain;
    mod controller;
    mod faults;
    mod gateways;
    mod interfaces;
    mod manifests;
    mod outage;
    mod ownership;
    mod permissions;
    mod services;
    mod status;
    mod tls;
}
