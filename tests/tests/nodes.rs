//! A real Kubernetes: kubelets, pods from images, and the DaemonSet as people apply it.
mod nodes {
    mod daemonset;
    mod dead_connection;
    mod ip_mode;
    mod pods;
}
