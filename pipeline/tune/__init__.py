"""Search over hyperparameters by cross-validation. Others import `stage` itself, since it loads Optuna."""
