import { defineConfig } from "vite"

// No address of this machine goes into the built files, so the same sources give the same bytes anywhere.
export default defineConfig({
  base: "./",
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: {
    outDir: "../service/web",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
  },
  server: {
    fs: { allow: [".", "../clients/typescript/src"] },
    // `npm run dev` beside a service: DAIN_URL=http://127.0.0.1:8000 npm run dev
    proxy: Object.fromEntries(
      ["/jobs", "/uploads", "/events", "/workers", "/session", "/openapi.json", "/docs"].map((path) => [
        path,
        { target: process.env.DAIN_URL ?? "http://127.0.0.1:8000", changeOrigin: true },
      ]),
    ),
  },
})
