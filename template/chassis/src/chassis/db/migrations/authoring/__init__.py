"""What writes and checks revisions, on a developer's machine or in CI: never imported at deploy."""
