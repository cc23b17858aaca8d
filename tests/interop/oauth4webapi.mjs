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

// A token exchange (RFC 8693), which it has no function of its own for.
const helper = { client_id: process.env.HELPER }
const helperKey = await importPKCS8(readFileSync(process.env.HELPER_KEY, 'utf8'), 'ES256')
const kind = 'urn:ietf:params:oauth:token-type:access_token'
const whole = await obtain('tickets:list tickets:read')
const exchanged = await oauth.processGenericTokenEndpointResponse(
  as, helper, await oauth.genericTokenEndpointRequest(
    as, helper, oauth.PrivateKeyJwt(helperKey), 'urn:ietf:params:oauth:grant-type:token-exchange',
    { subject_token: whole.access_token, subject_token_type: kind, resource, scope: 'tickets:read' }, insecure))
const delegated = await oauth.validateJwtAccessToken(
  as, new Request(resource, { headers: { authorization: `Bearer ${exchanged.access_token}` } }), resource, insecure)

let refused
try {
  await obtain('tickets:delete')
} catch (error) {
  refused = { name: error.constructor.name, error: error.error, status: error.status }
}

console.log(JSON.stringify({
  token_type: plain.token_type, expires_in: plain.expires_in, scope: plain.scope, subject: validated.sub,
  before: before.active, after: after.active, bound_type: bound.token_type, refused,
  exchanged: { kind: exchanged.issued_token_type, scope: exchanged.scope, act: delegated.act, subject: delegated.sub },
}))
