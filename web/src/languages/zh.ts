import type { Key } from "./en"

export const zh: Record<Key, string> = {
  "nav.new": "新建",
  "nav.jobs": "任务",
  "nav.workers": "计算节点",
  "nav.api": "API",
  "nav.label": "视图",
  "nav.skip": "跳到正文",
  "nav.sign-out": "退出登录",
  "sign-in.title": "登录",
  "sign-in.why": "此服务需要密钥。服务的管理员用 “dain keys add” 创建密钥。",
  "sign-in.key": "密钥",
  "sign-in.do": "登录",
  "sign-in.kept": "浏览器会保留密钥，直到关闭浏览器或退出登录。",
  "new.title": "更多帧，更流畅",
  "new.lead": "把视频拖到这里。在开始计算之前，先看看结果会怎样。",
  "jobs.title": "任务",
  "workers.title": "计算节点",
  "trouble.unreachable": "服务没有响应。恢复后本页会自动继续。",
  "trouble.unknown": "本页出错：{what}",
  "trouble.no-view": "这个地址没有内容。",
}
