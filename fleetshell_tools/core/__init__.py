"""What every other room stands on: errors, types, configuration, stores and the audit log."""
