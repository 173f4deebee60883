// The proxy's way in: configurable-http-proxy with two mends before it.
//
// It decodes a request's path without a guard. A path like /%ff, which says nothing in UTF-8,
// would be a fault of ours (500, and a stack trace in the log) instead of one of the asker's.
//
// It keeps its routes in plain objects and looks in them for whatever is asked for. So
// /constructor would be such a fault, too, and a user called __proto__ would take the routes of
// others away.

import { STATUS_CODES } from "node:http";

import ConfigurableProxy from "configurable-http-proxy/lib/configproxy.js";
import { URLTrie } from "configurable-http-proxy/lib/trie.js";

const BAD_REQUEST = 400;

function isReadable(url) {
  try {
    decodeURIComponent(new URL(url, "http://example.com").pathname);
    return true;
  } catch {
    return false;
  }
}

const { handleProxyWeb, handleProxyWs } = ConfigurableProxy.prototype;

Object.assign(ConfigurableProxy.prototype, {
  handleProxyWeb(request, response) {
    if (isReadable(request.url)) {
      return handleProxyWeb.call(this, request, response);
    }
    response.writeHead(BAD_REQUEST, { "Content-Type": "text/plain", Connection: "close" });
    response.end(`${STATUS_CODES[BAD_REQUEST]}\n`);
  },

  handleProxyWs(request, socket, head) {
    if (isReadable(request.url)) {
      return handleProxyWs.call(this, request, socket, head);
    }
    const status = `${BAD_REQUEST} ${STATUS_CODES[BAD_REQUEST]}`;
    socket.end(`HTTP/1.1 ${status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
  },
});

// Each node of the routes gets its branches once, in its constructor: they inherit no name.
Object.defineProperty(URLTrie.prototype, "branches", {
  set(branches) {
    Object.defineProperty(this, "branches", { value: Object.setPrototypeOf(branches, null) });
  },
});

// Last: it reads the command line and begins to listen.
await import("configurable-http-proxy/bin/configurable-http-proxy");
