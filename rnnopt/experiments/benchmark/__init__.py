"""The benchmark of optimizers for recurrent networks: workloads, rules, entries, scores."""
