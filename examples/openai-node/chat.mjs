// OpenAI's Node client: a method by preset, by field, and streamed.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none",
});
const question = {
  messages: [{ role: "user", content: "Write a review of the hotel." }],
  temperature: 0,
  max_tokens: 64,
};
const decoding = { logits: { method: "genarm", weights: { polite: 1.0 } }, report: true };

// By preset: the method is part of the model's name.
let answer = await client.chat.completions.create({ model: "demo:ead", ...question });
console.log("preset:", answer.choices[0].message.content);

// By field: this client has no extra_body, an unknown field goes beside the others.
// (In TypeScript, put `// @ts-expect-error` above it.)
answer = await client.chat.completions.create({ model: "demo", ...question, decoding });
console.log("field:", answer.choices[0].message.content);
console.log("report:", JSON.stringify(answer.decoding));

// Streamed: the report comes with the last chunk.
const stream = await client.chat.completions.create({ model: "demo", ...question, decoding, stream: true });
let report;
process.stdout.write("stream: ");
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
  report = chunk.decoding ?? report;
}
console.log("\nreport:", JSON.stringify(report));
