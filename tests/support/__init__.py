"""What the tests stand on: a real sshd, and the check that a test leaves nothing behind."""
