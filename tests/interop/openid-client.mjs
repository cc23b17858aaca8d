// openid-client obtains, introspects and revokes a token by discovery alone.
import { readFileSync } from 'node:fs'
import { importPKCS8 } from 'jose'
import * as client from 'openid-client'

const key = await importPKCS8(readFileSync(process.env.KEY, 'utf8'), 'ES256')
const config = await client.discovery(
  new URL(process.env.ISSUER), process.env.CLIENT, undefined, client.PrivateKeyJwt(key),
  { algorithm: 'oauth2', execute: [client.allowInsecureRequests] })
const tokens = await client.clientCredentialsGrant(
  config, { scope: 'tickets:read', resource: process.env.RESOURCE })
const helperKey = await importPKCS8(readFileSync(process.env.HELPER_KEY, 'utf8'), 'ES256')
const helper = await client.discovery(
  new URL(process.env.ISSUER), process.env.HELPER, undefined, client.PrivateKeyJwt(helperKey),
  { algorithm: 'oauth2', execute: [client.allowInsecureRequests] })
const exchanged = await client.genericGrantRequest(helper, 'urn:ietf:params:oauth:grant-type:token-exchange', {
  subject_token: tokens.access_token, subject_token_type: 'urn:ietf:params:oauth:token-type:access_token',
  resource: process.env.RESOURCE })
const before = await client.tokenIntrospection(config, tokens.access_token)
await client.tokenRevocation(config, tokens.access_token)
const after = await client.tokenIntrospection(config, tokens.access_token)
console.log(JSON.stringify({
  token_type: tokens.token_type, expires_in: tokens.expires_in, scope: tokens.scope,
  before: before.active, client_id: before.client_id, after: after.active,
  exchanged: exchanged.scope,
}))
