// Runs a WebAssembly program with WASI in node:  node wasi.mjs PROGRAM ARGUMENT...
// It sees the folders of its arguments, by their own names.
import { readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { WASI } from "node:wasi";

const args = process.argv.slice(2);
const folders = args.filter((arg) => arg.startsWith("/")).map(dirname);
const preopens = Object.fromEntries(folders.map((folder) => [folder, folder]));
const wasi = new WASI({ version: "preview1", args, preopens, returnOnExit: true });
const module = await WebAssembly.compile(await readFile(args[0]));
process.exitCode = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
