//! The mesh protocol: state machines without I/O for the picture, targets, clients and routes.
