"""Training: schedules, augmentation, loading, the loop, and the state that survives it."""
