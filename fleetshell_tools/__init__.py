"""FleetShell: an MCP relay that lets an AI assistant work on a fleet of servers over SSH.

The map of this package:

- the tool families, one module each (`discovery`, `commands`, `logs`, `services`, `external`, …): what the product does;
- `catalog`: the families, in order; `offer`: what clients find besides tools (prompts, resources, completion);
- `app`: puts the parts together, and the single place where a tool is called; `daemon`: the relay as it runs;
- `offline`: what commands do with the rooms while no relay is needed;
- `core`: errors, types, configuration, stores, audit; imports no other room;
- `fleet`: everything SSH; `relay`: everything MCP and HTTP; `cli`: the command line.
"""
