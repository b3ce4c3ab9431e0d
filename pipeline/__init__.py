"""From labelled data to a validated, exported model."""
