"""The measurements that `benches/run` starts, one module each; `harness` holds what they share."""
