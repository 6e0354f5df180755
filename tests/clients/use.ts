// Every kind of request, with the types that openapi-typescript makes, against the service whose address is the argument.
import assert from 'node:assert/strict';
import { openAsBlob } from 'node:fs';
import createClient from 'openapi-fetch';
import type { components, paths } from './upscale.d.ts';

type Job = components['schemas']['JobResponse'];
type Result = components['schemas']['UpscaleResponse'];

const client = createClient<paths>({ baseUrl: process.argv[2] });
const photo = await openAsBlob('photo.png');
const file = photo as unknown as string; // what a file is called in a schema
const asForm = (body: unknown): FormData => {
  const form = new FormData();
  for (const [name, value] of Object.entries(body as object)) form.append(name, value instanceof Blob ? value : String(value));
  return form;
};
const raw = { headers: { 'Content-Type': 'application/octet-stream' }, body: file, bodySerializer: (body: unknown) => body };
const choices = { scale: 2, enhance_faces: false, output_format: 'png' } as const;

function given<T>(response: { data?: T; error?: components['schemas']['ErrorResponse'] }): T {
  if (response.data === undefined) throw new Error(response.error?.error ?? 'nothing came back');
  return response.data;
}

const image_b64 = Buffer.from(await photo.arrayBuffer()).toString('base64');
const results = [
  await client.POST('/upscale', { ...raw, params: { query: choices } }),
  await client.POST('/upscale', { body: { image: file, ...choices }, bodySerializer: asForm }),
  await client.POST('/upscale', { body: { image_b64, ...choices } }),
].map((response) => given(response) as Result);
assert.deepEqual(results.map((result) => result.upscaled_size.width), [80, 80, 80]);
assert.equal(new Set(results.map((result) => result.base64)).size, 1);

const { error } = await client.POST('/upscale', { body: { image_b64: 'AAAA' } });
const code: string | undefined = error?.code;
assert.equal(code, 'not_an_image');

const plan = given(await client.POST('/plan', { ...raw, params: { query: { target_resolution: '2k' } } }));
assert.deepEqual(plan.upscaling_strategy, [4, 4, 2]);
const { sizes } = given(await client.GET('/plan', { params: { query: { width: 40, height: 30 } } }));
assert.ok(sizes.every((size) => size.possible));

const { data: health } = await client.GET('/health');
assert.ok(health?.status === 'healthy' || health?.status === 'degraded');
assert.deepEqual(health.supported_resolutions, ['2k', '4k', '8k']);

const path = { id: 'from-typescript' };
const put = given(await client.PUT('/jobs/{id}', { ...raw, params: { path, query: choices } }));
const job: Job = given(await client.GET('/jobs/{id}', { params: { path } }));
assert.deepEqual(job, put);
assert.deepEqual(given(await client.POST('/jobs/{id}/cancel', { params: { path } })), put);
assert.equal(job.status, 'succeeded');
const name = job.result?.url.split('/').pop() ?? '';
const fetched = given(await client.GET('/files/{name}', { params: { path: { name } }, parseAs: 'arrayBuffer' }));
assert.equal(Buffer.from(fetched).toString('base64'), results[0]?.base64);
