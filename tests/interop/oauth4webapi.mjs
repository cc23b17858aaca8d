// oauth4webapi (certified, strict) obtains, validates, introspects and revokes a token, then a DPoP-bound one.
import { readFileSync } from 'node:fs'
import { importPKCS8 } from 'jose'
import * as oauth from 'oauth4webapi'

const insecure = { [oauth.allowInsecureRequests]: true } // plain http on the loopback address
const issuer = new URL(process.env.ISSUER)
const resource = process.env.RESOURCE

const as = await oauth
  .discoveryRequest(issuer, { algorithm: 'oauth2', ...insecure })
  .then((response) => oauth.processDiscoveryResponse(issuer, response))
const client = { client_id: process.env.CLIENT }
const key = await importPKCS8(readFileSync(process.env.KEY, 'utf8'), 'ES256')
const authenticate = () => oauth.PrivateKeyJwt(key)

async function obtain(scope, options = {}) {
  const response = await oauth.clientCredentialsGrantRequest(
    as, client, authenticate(), { scope, resource }, { ...insecure, ...options })
  return oauth.processClientCredentialsResponse(as, client, response)
}

async function introspect(token) {
  const response = await oauth.introspectionRequest(as, client, authenticate(), token, insecure)
  return oauth.processIntrospectionResponse(as, client, response)
}

const plain = await obtain('tickets:read')
const validated = await oauth.validateJwtAccessToken(
  as, new Request(resource, { headers: { authorization: `Bearer ${plain.access_token}` } }), resource, insecure)
const before = await introspect(plain.access_token)
await oauth.processRevocationResponse(
  await oauth.revocationRequest(as, client, authenticate(), plain.access_token, insecure))
const after = await introspect(plain.access_token)

const pair = await oauth.generateKeyPair('ES256')
const bound = await obtain('tickets:comment', { DPoP: oauth.DPoP(client, pair) })

let refused
try {
  await obtain('tickets:delete')
} catch (error) {
  refused = { name: error.constructor.name, error: error.error, status: error.status }
}

console.log(JSON.stringify({
  token_type: plain.token_type, expires_in: plain.expires_in, scope: plain.scope, subject: validated.sub,
  before: before.active, after: after.active, bound_type: bound.token_type, refused,
}))
