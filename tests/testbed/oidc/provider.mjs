// A real OpenID provider (npm: oidc-provider, certified) for tests of the login.
//
// node provider.mjs NODE_MODULES SETTINGS_JSON: listens on 127.0.0.1 only. The second port
// is the test's own: it changes accounts, revokes, and makes the provider misbehave.

import * as crypto from 'node:crypto';
import * as http from 'node:http';
import { createRequire } from 'node:module';

const require = createRequire(`${process.argv[2]}/`);
const { Provider } = require('oidc-provider');
const { SignJWT } = require('jose');
const settings = JSON.parse(process.argv[3]);
const issuer = `http://127.0.0.1:${settings.port}`;

const accounts = new Map(); // name -> {password, claims}
const normal = {
  access_ttl: 3600, // seconds an access token is good for
  id_token: 'good', // or: missing, tampered, expired, other_key, unsigned, not_a_token, or
  //                   {claims: {...}}: signed by the right key, with these changed
  userinfo: null, // claims that stand instead of, or are added to, the account's
  drop: [], // claims that are left out everywhere
  groups_in: 'both', // or: userinfo, id_token
  down: '', // or: 503, hang
  refresh_tokens: true,
};
let options = { ...normal };
const seen = { authorize: [], token: [], token_errors: [] };

// ---------------------------------------------------------------------- keys and storage

const key = () => crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
const signing = key();
const other = key();
const jwks = { keys: [{ ...signing.export({ format: 'jwk' }), kid: 'one', use: 'sig', alg: 'RS256' }] };

const rows = new Map(); // kind:id -> payload
const OF_A_GRANT = /^(AccessToken|AuthorizationCode|RefreshToken):/;

class Storage {
  constructor(kind) {
    this.kind = kind;
  }

  async upsert(id, payload) {
    rows.set(`${this.kind}:${id}`, payload);
  }

  async find(id) {
    return rows.get(`${this.kind}:${id}`);
  }

  async findByUid(uid) {
    return [...rows].find(([k, v]) => k.startsWith(`${this.kind}:`) && v.uid === uid)?.[1];
  }

  async consume(id) {
    rows.get(`${this.kind}:${id}`).consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    rows.delete(`${this.kind}:${id}`);
  }

  async revokeByGrantId(grantId) {
    for (const [k, v] of rows) if (v.grantId === grantId && OF_A_GRANT.test(k)) rows.delete(k);
  }
}

const forget = (name) => {
  for (const [k, v] of rows) if (v.accountId === name) rows.delete(k);
};

// ------------------------------------------------------------------------- the provider

const wanted = (use, claims) => {
  const found = { ...claims };
  if (options.groups_in !== 'both' && options.groups_in !== use) delete found.groups;
  if (use === 'userinfo') delete found.tid; // as Microsoft has it
  for (const name of options.drop) delete found[name];
  return found;
};

const provider = new Provider(issuer, {
  adapter: Storage,
  clients: [{
    client_id: settings.client_id,
    client_secret: settings.client_secret,
    redirect_uris: settings.redirect_uris,
    post_logout_redirect_uris: settings.post_logout_redirect_uris,
    grant_types: ['authorization_code', 'refresh_token'],
    token_endpoint_auth_method: 'client_secret_post',
  }],
  jwks,
  claims: {
    openid: ['sub', 'tid'],
    profile: ['preferred_username', 'name'],
    email: ['email', 'email_verified'],
    groups: ['groups'],
  },
  conformIdTokenClaims: false,
  clockTolerance: 0, // or expired tokens would be good for a while
  scopes: ['openid', 'offline_access', 'profile', 'email', 'groups'],
  cookies: { keys: [crypto.randomBytes(24).toString('hex')] },
  pkce: { required: () => true },
  features: {
    devInteractions: { enabled: false },
    rpInitiatedLogout: { // pages of our own: the defaults fetch fonts from elsewhere
      enabled: true,
      logoutSource: async (ctx, form) => {
        ctx.body = `<!DOCTYPE html><title>Log out</title>${form}<button form="op.logoutForm" \
name="logout" value="yes">Log out of the school</button>`;
      },
      postLogoutSuccessSource: async (ctx) => { ctx.body = 'You are logged out of the school.'; },
    },
  },
  renderError: async (ctx, out) => {
    ctx.type = 'html';
    ctx.body = `<!DOCTYPE html><title>Error</title>${out.error}`;
  },
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  issueRefreshToken: async () => options.refresh_tokens,
  rotateRefreshToken: () => true,
  ttl: {
    AccessToken: () => options.access_ttl,
    IdToken: 3600,
    RefreshToken: 86400,
    Grant: 86400,
    Session: 86400,
    Interaction: 600,
    AuthorizationCode: 60,
  },
  async findAccount(_ctx, name) {
    const account = accounts.get(name);
    if (!account) return undefined;
    return {
      accountId: name,
      claims: async (use) => wanted(use, { sub: name, ...accounts.get(name)?.claims }),
    };
  },
  async loadExistingGrant(ctx) { // everybody agreed already: no page that asks
    const { client, session, provider: self } = ctx.oidc;
    const known = session.grantIdFor(client.clientId);
    const found = known && await self.Grant.find(known);
    if (found) return found;
    const grant = new self.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope('openid offline_access profile email groups');
    await grant.save();
    return grant;
  },
});

const sign = (claims, by) => new SignJWT(claims).setProtectedHeader({ alg: 'RS256', kid: 'one' }).sign(by);
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

async function spoilt(token, how) {
  const [head, body, signature] = token.split('.');
  const claims = JSON.parse(Buffer.from(body, 'base64url'));
  const now = Math.floor(Date.now() / 1000);
  switch (how) {
    case 'missing': return undefined;
    case 'not_a_token': return 'rubbish';
    case 'tampered': return [head, part({ ...claims, sub: 'root' }), signature].join('.');
    case 'unsigned': return [part({ alg: 'none' }), body, ''].join('.');
    case 'expired': return sign({ ...claims, iat: now - 9000, exp: now - 5400 }, signing);
    case 'other_key': return sign(claims, other);
    default: {
      const changed = { ...claims, ...how.claims };
      for (const [name, value] of Object.entries(changed)) if (value === null) delete changed[name];
      return sign(changed, signing);
    }
  }
}

provider.use(async (ctx, next) => {
  await next();
  if (ctx.path === '/token') {
    if (ctx.status >= 400) seen.token_errors.push(ctx.body);
    if (ctx.body?.id_token && options.id_token !== 'good') {
      ctx.body = { ...ctx.body, id_token: await spoilt(ctx.body.id_token, options.id_token) };
    }
  }
  if (ctx.path === '/me' && ctx.status === 200 && options.userinfo !== null) {
    const body = typeof options.userinfo === 'object' && !Array.isArray(options.userinfo)
      ? { ...ctx.body, ...options.userinfo } : options.userinfo;
    ctx.type = 'json';
    ctx.body = JSON.stringify(body);
  }
});
provider.on('server_error', (_ctx, error) => console.error(error));
provider.on('authorization.accepted', (ctx) => seen.authorize.push({ ...ctx.oidc.params }));
provider.on('grant.success', (ctx) => seen.token.push({
  grant_type: ctx.oidc.params.grant_type, has_verifier: Boolean(ctx.oidc.params.code_verifier),
}));

// ---------------------------------------------------------------- the login page and HTTP

const page = (uid, said) => `<!DOCTYPE html><html lang="en"><title>School login</title>
<form method="post" action="/interaction/${uid}"><h1>School login</h1><p>${said}</p>
<label>Account <input name="login"></label> <label>Secret <input name="password" type="password"></label>
<button>Sign in</button></form></html>`;

async function text(req) {
  let found = '';
  for await (const chunk of req) found += chunk;
  return found;
}

async function interact(req, res) {
  const { uid } = await provider.interactionDetails(req, res);
  const send = (said) => {
    res.writeHead(200, { 'content-type': 'text/html' });
    res.end(page(uid, said));
  };
  if (req.method !== 'POST') return send('');
  const form = new URLSearchParams(await text(req));
  const name = form.get('login');
  if (accounts.get(name)?.password !== form.get('password')) return send('Wrong account or secret.');
  return provider.interactionFinished(req, res, { login: { accountId: name } }, {
    mergeWithLastSubmission: false,
  });
}

const serve = provider.callback();
http.createServer((req, res) => {
  if (options.down === 'hang') return undefined;
  if (options.down) {
    res.writeHead(503);
    return res.end('{"error": "maintenance"}');
  }
  if (!req.url.startsWith('/interaction/')) return serve(req, res);
  return interact(req, res).catch((error) => {
    res.writeHead(400);
    res.end(String(error));
  });
}).listen(settings.port, '127.0.0.1');

const answers = {
  'PUT /accounts': ({ name, ...account }) => accounts.set(name, account),
  'DELETE /accounts': ({ name }) => {
    accounts.delete(name);
    forget(name);
  },
  'POST /forget': ({ name }) => forget(name), // every session and token of an account
  'POST /options': (changed) => { options = { ...options, ...changed }; },
  'POST /reset': () => {
    options = { ...normal };
    for (const list of Object.values(seen)) list.length = 0;
  },
  'GET /seen': () => seen,
};
http.createServer(async (req, res) => {
  const body = await text(req);
  const answer = answers[`${req.method} ${req.url}`];
  const said = answer?.(body ? JSON.parse(body) : {});
  res.writeHead(answer ? 200 : 404, { 'content-type': 'application/json' });
  res.end(JSON.stringify(said === seen ? seen : {}));
}).listen(settings.control_port, '127.0.0.1');
