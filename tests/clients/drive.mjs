// One of the two TypeScript SDKs, driven over stdin and stdout as lines of JSON; see driver.py for what is said.
// CLIENT_SETTINGS in the environment holds as JSON: sdk ("1" or "2"), modules, url, headers, mode ("legacy", "auto", or a version for "2").
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const { sdk, modules, url, headers, mode } = JSON.parse(process.env.CLIENT_SETTINGS);
const require = createRequire(`${modules}/`);
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const changed = () => say({ event: 'changed' });
// What the user types into a form: their name, everywhere.
const typed = ({ params }) => {
  const names = Object.keys(params.requestedSchema.properties);
  return { action: 'accept', content: Object.fromEntries(names.map((name) => [name, 'Ann'])) };
};
const about = { name: `typescript-sdk-${sdk}`, version: '1' };

const capabilities = { elicitation: {} };

let client;
let Transport;
let calling;
if (sdk === '1') {
  const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
  const types = require('@modelcontextprotocol/sdk/types.js');
  Transport = require('@modelcontextprotocol/sdk/client/streamableHttp.js').StreamableHTTPClientTransport;
  client = new Client(about, { capabilities });
  client.setRequestHandler(types.ElicitRequestSchema, typed);
  client.setNotificationHandler(types.ToolListChangedNotificationSchema, changed);
  calling = (params, options) => client.callTool(params, undefined, options);
} else {
  const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');
  Transport = StreamableHTTPClientTransport;
  const negotiation = mode === 'legacy' || mode === 'auto' ? mode : { pin: mode };
  client = new Client(about, { capabilities, versionNegotiation: { mode: negotiation } });
  client.setRequestHandler('elicitation/create', typed);
  client.setNotificationHandler('notifications/tools/list_changed', changed);
  calling = (params, options) => client.callTool(params, options);
}

const transport = new Transport(new URL(url), { requestInit: { headers } });
const running = new Map();

async function call({ id, name, arguments: given, meta, progress }) {
  const controller = new AbortController();
  running.set(id, controller);
  const options = { signal: controller.signal, timeout: 60_000 };
  if (progress) options.onprogress = (report) => say({ event: 'progress', id, message: report.message });
  try {
    return await calling({ name, arguments: given, ...(meta ? { _meta: meta } : {}) }, options);
  } finally {
    running.delete(id);
  }
}

const verbs = {
  list: async () => ({ tools: (await client.listTools()).tools.map((tool) => tool.name) }),
  call,
  cancel: async ({ call: id }) => {
    running.get(id)?.abort('no longer wanted');
    return {};
  },
  listen: async () => {
    await client.listen({ toolsListChanged: true });
    return {};
  },
};

async function obey(order) {
  try {
    say({ id: order.id, result: await verbs[order.do](order) });
  } catch (error) {
    say({ id: order.id, error: { code: error.code ?? null, message: String(error.message ?? error), data: error.data ?? null } });
  }
}

try {
  await client.connect(transport);
} catch (error) {
  say({ event: 'failed', message: String(error.message ?? error) });
  process.exit(1);
}
const version = sdk === '1' ? transport.protocolVersion : client.getNegotiatedProtocolVersion();
say({ event: 'connected', version });
const orders = createInterface({ input: process.stdin });
for await (const line of orders) void obey(JSON.parse(line));
await client.close();
process.exit(0);
