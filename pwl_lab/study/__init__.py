"""The study itself: settings, the store, `train_or_load`, `distill` and `train_pair`, recipes, tables, intervals."""
