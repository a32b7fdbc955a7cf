"""What looks at new revisions for what hurts traffic; no server and no deployment needs it."""
