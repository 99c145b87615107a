"""What a person types and sees: commands, status, plan, doctor."""
