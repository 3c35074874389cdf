"""Flow matching: schedules, losses and samplers."""
