// Runs one named flow of a client, `node FILE FLOW`, and prints what it found as JSON.
// The environment says where the gateway is; the Python tests say what is right.

export const MODEL = "scripted";
export const baseURL = process.env.SMG_BASE_URL;

export async function run(flows) {
  const flow = flows[process.argv[2]];
  if (!flow) throw new Error(`There is no flow ${process.argv[2]}`);
  console.log(JSON.stringify(await flow()));
}
