// A frame of a large video as a picture of the size that is shown. It is a worker: see Copier.

export interface Ordered {
  frame: VideoFrame
  width: number
  height: number
}

addEventListener("message", ({ data: { frame, width, height } }: MessageEvent<Ordered>) => {
  const canvas = new OffscreenCanvas(width, height)
  canvas.getContext("2d", { alpha: false })!.drawImage(frame, 0, 0, width, height)
  frame.close()
  const picture = canvas.transferToImageBitmap()
  postMessage(picture, { transfer: [picture] })
})
