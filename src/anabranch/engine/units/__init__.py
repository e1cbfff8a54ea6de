"""What is sent to run, and what comes back."""
