// @sd-jwt/jwt-status-list reads the status of a token before and after it was revoked; jose verifies both signatures.
import { readFileSync } from 'node:fs'
import { getListFromStatusListJWT, getStatusListFromJWT } from '@sd-jwt/jwt-status-list'
import { createRemoteJWKSet, importPKCS8, jwtVerify } from 'jose'
import * as oauth from 'oauth4webapi'

const insecure = { [oauth.allowInsecureRequests]: true } // plain http on the loopback address
const issuer = new URL(process.env.ISSUER)
const as = await oauth
  .discoveryRequest(issuer, { algorithm: 'oauth2', ...insecure })
  .then((response) => oauth.processDiscoveryResponse(issuer, response))
const client = { client_id: process.env.CLIENT }
const key = await importPKCS8(readFileSync(process.env.KEY, 'utf8'), 'ES256')
const keys = createRemoteJWKSet(new URL(as.jwks_uri))

async function obtain() {
  const parameters = { scope: 'tickets:read', resource: process.env.RESOURCE }
  const response = await oauth.clientCredentialsGrantRequest(as, client, oauth.PrivateKeyJwt(key), parameters, insecure)
  return (await oauth.processClientCredentialsResponse(as, client, response)).access_token
}

async function status(token) {
  await jwtVerify(token, keys, { issuer: as.issuer, typ: 'at+jwt' })
  const { idx, uri } = getStatusListFromJWT(token)
  const response = await fetch(uri, { headers: { accept: 'application/statuslist+jwt' } })
  const list = await response.text()
  const { payload } = await jwtVerify(list, keys, { subject: uri, typ: 'statuslist+jwt', requiredClaims: ['iat', 'exp'] })
  return { status: getListFromStatusListJWT(list).getStatus(idx), ttl: payload.ttl, type: response.headers.get('content-type') }
}

const [stolen, other] = [await obtain(), await obtain()]
const before = [await status(stolen), await status(other)]
await oauth.processRevocationResponse(
  await oauth.revocationRequest(as, client, oauth.PrivateKeyJwt(key), stolen, insecure))
const after = [await status(stolen), await status(other)]
console.log(JSON.stringify({ before, after }))
