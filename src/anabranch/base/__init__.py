"""What every part may use, and what knows no flow: errors, settings, states, signals, triggers, events, texts."""
