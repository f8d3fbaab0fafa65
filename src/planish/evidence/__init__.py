"""Evidence: intervals, paired tests, power, sequential gates, gate rules and verdicts. A number leaves here with what it can and cannot show."""
