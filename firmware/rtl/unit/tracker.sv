// The tracker of a layer: after each token its levels, gain, phase and lock, bit for bit as `Tracker::update`. Off the
// critical path, so that it is small: a program of some 200 steps on one multiplier and one divider.
//
// A step takes three cycles, for its sources, for sums and shifts of them and for its result, and three more if it
// jumps; those that wait for a unit take longer. A result is kept while the next step looks for its sources, and is
// handed to it if it is one of them.
module unit_tracker #(
  parameter int unsigned E = 256,
  parameter int unsigned ID = $clog2(E)
) (
  input  logic        clk,
  input  logic        rst_n,
  input  logic        start,
  output logic        done,
  // The registers' numbers; hold still.
  input  logic [31:0] process_noise,
  input  logic [31:0] reopened,
  input  logic [31:0] fast_gain,
  input  logic [4:0]  proportional_shift,
  input  logic [4:0]  integral_shift,
  input  logic [15:0] acquire_tokens,
  input  logic [7:0]  slack_16ths,
  input  logic [7:0]  threshold,
  input  logic [ID:0] experts,
  // What the token wanted: an entry the cycle after it was asked for.
  input  logic [6:0]  wanted_count,
  output logic [5:0]  wanted_index,
  input  logic [15:0] wanted_id,
  // Words of the layer's state.
  output logic        state_read,
  output logic        state_write,
  output logic [3:0]  state_word,
  output logic [31:0] state_data,
  input  logic [31:0] state_stored,
  // The levels.
  output logic        level_read,
  output logic        level_raise,
  output logic        level_sweep,
  output logic [ID-1:0] level_expert,
  output logic [5:0]  slow_shift,
  output logic [5:0]  fast_shift,
  output logic [31:0] slow_raise,
  output logic [31:0] fast_raise,
  input  logic        level_busy,
  input  logic [31:0] level_slow,
  // What was seen.
  output logic [31:0] snr,
  output logic [31:0] angle,
  output logic [1:0]  lock,
  output logic        lost_lock
);
  localparam logic [4:0] ADD = 5'd0, SUB = 5'd1, ADDU = 5'd2, SUBU = 5'd3, IADD = 5'd4, ISUB = 5'd5, SHL = 5'd6,
    SHR = 5'd7, SAR = 5'd8, MAX = 5'd9, MIN = 5'd10, ABS = 5'd11, LZ = 5'd12, MULH = 5'd13, MULS = 5'd14, SQRT = 5'd15,
    DIVF = 5'd16, DIVI = 5'd17, LDW = 5'd18, STW = 5'd19, LDID = 5'd20, LDL = 5'd21, RAISE = 5'd22, SWEEP = 5'd23,
    JEQ = 5'd24, JNE = 5'd25, JLTU = 5'd26, JGEU = 5'd27, JGES = 5'd28, CALL = 5'd29, RET = 5'd30, HALT = 5'd31;

  typedef enum logic [3:0] {IDLE, FETCH, DECODE, SOURCES, EXECUTE, RESULT, WAIT, ROOT, QUOTIENT, LEVELS} state_t;
  state_t state;
  logic [7:0] at, link;
  logic [54:0] stored, fetched, instruction;
  unit_tracker_program rom (.address(at), .instruction(stored));
  wire [4:0] op = instruction[54:50];
  wire [5:0] target = instruction[49:44];
  wire [31:0] number = instruction[31:0];

  // The numbers that change, those that do not, and the instruction's; the sources of a step, which are known by then.
  localparam int unsigned NUMBERS = 43;
  logic [32*32-1:0] numbers;
  logic [NUMBERS-1:0] uses_a, uses_b;
  logic uses_result_a, uses_result_b, has_result;
  logic [31:0] a, b, source_a, source_b, result;
  wire [32*NUMBERS-1:0] sources = {
    number, 32'(wanted_count), 32'(experts), 32'(threshold), 32'(slack_16ths), 32'(acquire_tokens),
    32'(integral_shift), 32'(proportional_shift), fast_gain, reopened, process_noise, numbers
  };
  wire writes = state == RESULT & has_result;
  wire result_to_a = writes & fetched[43:38] == target;
  wire result_to_b = writes & fetched[37:32] == target;
  always_comb begin
    source_a = result & {32{uses_result_a}};
    source_b = result & {32{uses_result_b}};
    for (int unsigned i = 0; i < NUMBERS; i++) begin
      source_a = source_a | (sources[32*i+:32] & {32{uses_a[i]}});
      source_b = source_b | (sources[32*i+:32] & {32{uses_b[i]}});
    end
  end
  always_ff @(posedge clk) begin
    fetched <= stored;
    has_result <= op < STW | op == LDID | op == LDL;
    if (state == DECODE || state == RESULT) begin
      instruction <= fetched;
      uses_result_a <= result_to_a;
      uses_result_b <= result_to_b;
      for (int unsigned i = 0; i < NUMBERS; i++) begin
        uses_a[i] <= fetched[43:38] == (i == NUMBERS - 1 ? 6'd63 : 6'(i)) & ~result_to_a;
        uses_b[i] <= fetched[37:32] == (i == NUMBERS - 1 ? 6'd63 : 6'(i)) & ~result_to_b;
      end
    end
    if (state == SOURCES) {a, b} <= {source_a, source_b};
  end

  // Sums, whose upper halves are made with and without a carry, and shifts.
  logic [5:0] zeros;
  logic [16:0] low_total, low_rest, high_total, high_total_carried, high_rest, high_rest_carried;
  logic [31:0] other;
  logic equal, too_great;
  always_comb begin
    zeros = 6'd32;
    for (int unsigned i = 0; i < 32; i++) if (a[i]) zeros = 6'(31 - i);
  end
  always_ff @(posedge clk) begin
    low_total <= {1'b0, a[15:0]} + {1'b0, b[15:0]};
    low_rest <= {1'b0, a[15:0]} - {1'b0, b[15:0]};
    high_total <= {1'b0, a[31:16]} + {1'b0, b[31:16]};
    high_total_carried <= {1'b0, a[31:16]} + {1'b0, b[31:16]} + 17'd1;
    high_rest <= {1'b0, a[31:16]} - {1'b0, b[31:16]};
    high_rest_carried <= {1'b0, a[31:16]} - {1'b0, b[31:16]} - 17'd1;
    equal <= a == b;
    case (op)
      SHL: other <= a << b[4:0];
      SHR: other <= a >> b[4:0];
      SAR: other <= $signed(a) >>> b[4:0];
      LZ: other <= 32'(zeros);
      default: other <= a[31] ? ~a + 32'd1 : a;
    endcase
    too_great <= product[63:31] != '0;
  end
  wire [32:0] total = {low_total[16] ? high_total_carried : high_total, low_total[15:0]};
  wire [32:0] rest = {low_rest[16] ? high_rest_carried : high_rest, low_rest[15:0]};
  wire less = rest[32];
  wire below = a[31] != b[31] ? a[31] : less;
  wire sum_overflows = a[31] == b[31] & total[31] != a[31];
  wire rest_overflows = a[31] != b[31] & rest[31] != a[31];
  wire [31:0] end_of_range = a[31] ? 32'h8000_0000 : 32'h7fff_ffff;

  // The multiplier; the divider, which finds 32 bits of {a, low} / b; and the root of a product, a bit of it at a time.
  logic [63:0] product, radicand;
  logic [31:0] low, divisor;
  logic [32:0] divide_left;
  logic [35:0] root_left;
  logic [33:0] root;
  logic [4:0] steps;
  logic [2:0] wait_steps;
  logic [31:0] factor_a, factor_b;
  always_ff @(posedge clk) {factor_a, factor_b} <= {a, b};
  unit_multiply #(.A(32), .B(32)) multiplier (.clk, .a(factor_a), .b(factor_b), .product);
  wire [35:0] root_trial = {root, 2'b01};
  wire root_fits = root_left >= root_trial;
  wire [35:0] root_rest = root_left - root_trial;
  wire divide_fits = divide_left >= {1'b0, divisor};
  wire [32:0] divide_rest = divide_left - {1'b0, divisor};

  logic [31:0] found;
  logic jumps;
  always_comb begin
    found = total[31:0];
    case (op)
      SUB: found = rest[31:0];
      ADDU: found = total[32] ? 32'hffff_ffff : total[31:0];
      SUBU: found = less ? 32'd0 : rest[31:0];
      IADD: found = sum_overflows ? end_of_range : total[31:0];
      ISUB: found = rest_overflows ? end_of_range : rest[31:0];
      MAX: found = below ? b : a;
      MIN: found = below ? a : b;
      SHL, SHR, SAR, ABS, LZ: found = other;
      MULH: found = product[63:32];
      MULS: found = too_great ? 32'h7fff_ffff : product[31:0];
      SQRT: found = root[31:0];
      DIVF, DIVI: found = low;
      LDW: found = state_stored;
      LDID: found = 32'(wanted_id);
      LDL: found = level_slow;
      default: ;
    endcase
    jumps = 1'b0;
    case (op)
      JEQ: jumps = equal;
      JNE: jumps = ~equal;
      JLTU: jumps = less;
      JGEU: jumps = ~less;
      JGES: jumps = ~below;
      CALL, RET: jumps = 1'b1;
      default: ;
    endcase
  end
  logic [31:0] written;
  always_ff @(posedge clk) begin
    result <= found;
    written <= writes ? 32'd1 << target[4:0] : '0;
  end
  for (genvar i = 0; i < 32; i++) begin : file
    always_ff @(posedge clk) if (written[i]) numbers[32*i+:32] <= result;
  end

  assign wanted_index = a[5:0];
  assign state_read = state == SOURCES;
  assign state_write = state == RESULT & op == STW;
  assign state_word = number[3:0];
  assign state_data = a;
  assign level_expert = a[ID-1:0];
  always_ff @(posedge clk) begin
    level_read <= state == SOURCES & op == LDL & ~jump;
    level_raise <= state == SOURCES & op == RAISE & ~jump;
    level_sweep <= state == SOURCES & op == SWEEP & ~jump;
  end
  assign slow_shift = numbers[32*21+:6];
  assign slow_raise = numbers[32*22+:32];
  assign fast_shift = numbers[32*23+:6];
  assign fast_raise = numbers[32*24+:32];
  assign angle = numbers[32*14+:32];
  assign snr = numbers[32*15+:32];
  assign lock = numbers[32*8+:2];
  assign lost_lock = numbers[32*20];

  always_ff @(posedge clk) begin
    divisor <= b;
    steps <= state == WAIT ? '0 : steps + 5'd1;
    if (state == WAIT) begin
      radicand <= product << 2;
      root_left <= {34'd0, product[63:62]};
      root <= '0;
      low <= op == DIVI ? a << 1 : '0;
      divide_left <= op == DIVI ? {32'd0, a[31]} : {a, 1'b0};
    end else begin
      radicand <= radicand << 2;
      root_left <= {root_fits ? root_rest[33:0] : root_left[33:0], radicand[63:62]};
      root <= {root[32:0], root_fits};
      // Of a numerator that is not below the denominator the largest.
      low <= op == DIVF && !less ? 32'hffff_ffff : {low[30:0], divide_fits};
      divide_left <= {divide_fits ? divide_rest[31:0] : divide_left[31:0], low[31]};
    end
  end

  // Where a jump goes, and whether it does: the step that comes otherwise has begun by then.
  logic jump;
  logic [7:0] jump_to;
  always_ff @(posedge clk) jump_to <= op == RET ? link : number[7:0];
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      {at, link, wait_steps} <= '0;
      {done, jump} <= '0;
    end else begin
      done <= 1'b0;
      jump <= state == RESULT & jumps;
      case (state)
        IDLE: if (start) begin
          state <= FETCH;
          at <= '0;
        end
        FETCH: state <= DECODE;
        DECODE: state <= SOURCES;
        // The next step is on its way by the time that this one is done.
        SOURCES: begin
          wait_steps <= '0;
          at <= jump ? jump_to : at + 8'd1;
          if (jump) state <= FETCH;
          else case (op)
            MULH, MULS, SQRT, DIVF, DIVI, LDID, LDL, RAISE, SWEEP: state <= WAIT;
            default: state <= EXECUTE;
          endcase
        end
        EXECUTE: state <= RESULT;
        WAIT: begin
          wait_steps <= wait_steps + 3'd1;
          case (op)
            LDID, LDL: if (wait_steps == 3'd1) state <= RESULT;
            RAISE, SWEEP: if (wait_steps == 3'd0) state <= LEVELS;
            DIVF, DIVI: state <= QUOTIENT;
            default: if (wait_steps == 3'd6) state <= op == SQRT ? ROOT : RESULT;
          endcase
        end
        ROOT, QUOTIENT: if (steps == 5'd31) state <= RESULT;
        LEVELS: if (!level_busy) state <= RESULT;
        default: begin
          state <= op == HALT ? IDLE : SOURCES;
          done <= op == HALT;
          if (op == CALL) link <= at;
        end
      endcase
    end
  end
endmodule
