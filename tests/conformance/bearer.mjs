// Preloaded into the conformance suites, which cannot send an API key: adds the one in MCP_TEST_KEY to every request.
// Node's own fetch and every copy of undici announce a request on the first channel, node:http on the second.
import { subscribe } from 'node:diagnostics_channel';

const value = `Bearer ${process.env.MCP_TEST_KEY}`;
subscribe('undici:request:create', ({ request }) => request.addHeader('authorization', value));
subscribe('http.client.request.created', ({ request }) => request.setHeader('authorization', value));
